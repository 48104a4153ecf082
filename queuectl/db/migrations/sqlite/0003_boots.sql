-- The boot of the machine in which workers last registered. A claim is not synced, so a loss of power may take the newest
-- runs away, after their commands were given their ids. With each new boot ids go on behind a gap: none comes again.
ALTER TABLE store ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
