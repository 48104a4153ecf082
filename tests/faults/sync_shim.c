/* Has each sync of a file fail as on a disk with bad blocks, for the processes that preload it, and nothing else: what
 * they write all others see. With INTERRUPT, a Ctrl-C comes amid the first instead. */
#include <errno.h>
#include <signal.h>

int fdatasync(int file)
{
    (void)file;
#ifdef INTERRUPT
    static int is_over;
    if (!is_over++)
        raise(SIGINT);
    return 0;
#endif
    errno = EIO;
    return -1;
}
