-- The functions of 0002 have patterns such as '\d' in plain strings, which a session with standard_conforming_strings
-- = off reads as 'd': a good command was refused as blank, a time as none, and the number of an id such as job16 was not
-- noted as taken, until enqueue() came to that number and could not go on. Each function that has such a string
-- brings the setting along, not enqueue() alone: plans that sessions have kept of the others are made anew so.
ALTER FUNCTION queuectl._duration_s(text, jsonb) SET standard_conforming_strings = on;
ALTER FUNCTION queuectl._instant_at(jsonb) SET standard_conforming_strings = on;
ALTER FUNCTION queuectl._whole(text, jsonb, bigint) SET standard_conforming_strings = on;
ALTER FUNCTION queuectl._env(jsonb) SET standard_conforming_strings = on;
ALTER FUNCTION queuectl.enqueue(text, jsonb) SET standard_conforming_strings = on;

-- As in 0002, but a number that a job bears is gone past although nobody noted it as taken.
CREATE OR REPLACE FUNCTION queuectl._take_id(given text) RETURNS text
LANGUAGE plpgsql SET standard_conforming_strings = on AS $$
DECLARE
    upcoming bigint;
    its_number bigint := CASE WHEN given ~ '^job[1-9]\d{0,17}$' THEN substr(given, 4)::bigint END;
    taken boolean;
BEGIN
    SELECT n.next_number, n.has_taken INTO STRICT upcoming, taken FROM queuectl.numbers AS n WHERE n.one FOR UPDATE;
    IF given IS NULL THEN
        WHILE EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = 'job' || upcoming)
              OR taken AND EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = upcoming) LOOP
            upcoming := upcoming + 1;
        END LOOP;
        given := 'job' || upcoming;
        upcoming := upcoming + 1;
    ELSE
        IF EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = given) THEN
            RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
                'the id %s is taken. Give another id, or none to get the next one.', given);
        END IF;
        IF its_number < upcoming
           OR EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = its_number) THEN
            RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
                'the id %s was used by an earlier job. Give another id, or none to get the next one.', given);
        END IF;
        IF its_number IS NOT NULL THEN
            INSERT INTO queuectl.taken_numbers VALUES (its_number);
            taken := true;
        END IF;
    END IF;
    IF taken THEN
        WHILE EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = upcoming) LOOP
            upcoming := upcoming + 1;
        END LOOP;
        DELETE FROM queuectl.taken_numbers AS t WHERE t.number < upcoming;
        taken := EXISTS (SELECT 1 FROM queuectl.taken_numbers);
    END IF;
    UPDATE queuectl.numbers
       SET next_number = upcoming, has_taken = taken, announced_at = extract(epoch FROM clock_timestamp())
     WHERE one;
    RETURN given;
END $$;
