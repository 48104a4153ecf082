/* Has each sync of a file fail as on a disk with bad blocks, for the processes that preload it, and nothing else: what
 * they write all others see. */
#include <errno.h>

int fdatasync(int file)
{
    (void)file;
    errno = EIO;
    return -1;
}
