/* Stands between the server and its data folder (LD_PRELOAD) and lets one call go wrong: the n-th of the
 * chosen calls on the chosen files kills the process before or after it, is torn, or fails.
 *
 * FAULTS names a file of SLOTS numbers of 64 bits that the test writes and reads while the server runs; what
 * each says stands below. DATA names the folder. Without FAULTS nothing happens. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { /* what each slot says */
    ACTION,    /* below; NOTHING disarms */
    COUNTDOWN, /* it strikes at the n-th call that fits, n from 1 */
    LASTS,     /* how many calls that fit are struck, from that one on */
    CALLS,     /* which calls fit, bits below */
    FILES,     /* which files, bits below */
    SHARE,     /* a torn or short write does so many thousandths of its octets */
    SEEN,      /* the shim counts the calls that fit */
    STRUCK,    /* and those that were struck */
    SLOTS
};
enum { NOTHING, KILL_BEFORE, KILL_AFTER, TEAR, SHORT, FAIL_EIO, FAIL_ENOSPC, FAIL_EROFS, FORGET };
enum { WRITE = 1, SYNC = 2, SIZE = 4, NAME = 8 };
enum { LOG = 1, BODY = 2, VIEW = 4, OTHER = 8 };

static uint64_t *slots;
static char data[4096];

__attribute__((constructor)) static void open_slots(void)
{
    const char *faults = getenv("FAULTS"), *folder = getenv("DATA");
    int fd = faults && folder ? open(faults, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    snprintf(data, sizeof data, "%s", folder);
    if (map != MAP_FAILED)
        slots = map;
}

static uint64_t slot(int which)
{
    return __atomic_load_n(&slots[which], __ATOMIC_SEQ_CST);
}

/* Which kind of file a path names; 0 outside the folder. */
static uint64_t kind_of(const char *path)
{
    size_t length = strlen(data);
    if (strncmp(path, data, length) != 0)
        return 0;
    const char *rest = path + length;
    if (strncmp(rest, "/log/", 5) == 0)
        return LOG;
    if (strncmp(rest, "/body/", 6) == 0)
        return BODY;
    if (strncmp(rest, "/view", 5) == 0)
        return VIEW;
    return OTHER;
}

static uint64_t kind_of_fd(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return kind_of(path);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* What shall happen to this call. */
static uint64_t strike(uint64_t call, uint64_t file)
{
    if (!(slot(CALLS) & call) || !(slot(FILES) & file))
        return NOTHING;
    uint64_t action = slot(ACTION);
    uint64_t number = __atomic_add_fetch(&slots[SEEN], 1, __ATOMIC_SEQ_CST);
    uint64_t first = slot(COUNTDOWN), lasts = slot(LASTS);
    if (number < first || number - first >= lasts)
        return NOTHING;
    __atomic_add_fetch(&slots[STRUCK], 1, __ATOMIC_SEQ_CST);
    if (action == KILL_BEFORE)
        die();
    return action;
}

static uint64_t strike_fd(uint64_t call, int fd)
{
    return slots && slot(ACTION) != NOTHING ? strike(call, kind_of_fd(fd)) : NOTHING;
}

static uint64_t strike_path(uint64_t call, const char *path)
{
    return slots && slot(ACTION) != NOTHING ? strike(call, kind_of(path)) : NOTHING;
}

static int error_of(uint64_t action)
{
    return action == FAIL_EIO ? EIO : action == FAIL_ENOSPC ? ENOSPC : action == FAIL_EROFS ? EROFS : 0;
}

/* The next `name` behind this one. */
#define NEXT(type, name, ...)              \
    static type (*next)(__VA_ARGS__);      \
    if (!next)                             \
    next = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* A call whose result is an int, without parts. */
#define WHOLE(action, call)          \
    do {                             \
        uint64_t action_ = (action); \
        int error_ = error_of(action_); \
        if (error_)                  \
            return errno = error_, -1; \
        if (action_ == FORGET)       \
            return 0;                \
        int result_ = (call);        \
        if (action_ == KILL_AFTER)   \
            die();                   \
        return result_;              \
    } while (0)

/* A write: what of `length` octets is done of it, and how it ends. */
#define IN_PARTS(action, length, call)                      \
    do {                                                    \
        uint64_t action_ = (action);                        \
        int error_ = error_of(action_);                     \
        if (error_)                                         \
            return errno = error_, -1;                      \
        if (action_ == TEAR)                                \
            length = length * slot(SHARE) / 1000;           \
        if (action_ == SHORT && length > 1)                 \
            length = 1 + (length - 1) * slot(SHARE) / 1000; \
        ssize_t written_ = (call);                          \
        if (action_ == TEAR || action_ == KILL_AFTER)       \
            die();                                          \
        return written_;                                    \
    } while (0)

ssize_t pwrite64(int fd, const void *octets, size_t length, off64_t at)
{
    NEXT(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    IN_PARTS(strike_fd(WRITE, fd), length, next(fd, octets, length, at));
}

ssize_t write(int fd, const void *octets, size_t length)
{
    NEXT(ssize_t, write, int, const void *, size_t);
    IN_PARTS(strike_fd(WRITE, fd), length, next(fd, octets, length));
}

int fdatasync(int fd)
{
    NEXT(int, fdatasync, int);
    WHOLE(strike_fd(SYNC, fd), next(fd));
}

int fsync(int fd)
{
    NEXT(int, fsync, int);
    WHOLE(strike_fd(SYNC, fd), next(fd));
}

int sync_file_range(int fd, off64_t from, off64_t length, unsigned flags)
{
    NEXT(int, sync_file_range, int, off64_t, off64_t, unsigned);
    WHOLE(strike_fd(SYNC, fd), next(fd, from, length, flags));
}

int ftruncate64(int fd, off64_t length)
{
    NEXT(int, ftruncate64, int, off64_t);
    WHOLE(strike_fd(SIZE, fd), next(fd, length));
}

int fallocate(int fd, int mode, off_t from, off_t length)
{
    NEXT(int, fallocate, int, int, off_t, off_t);
    WHOLE(strike_fd(SIZE, fd), next(fd, mode, from, length));
}

int rename(const char *from, const char *to)
{
    NEXT(int, rename, const char *, const char *);
    WHOLE(strike_path(NAME, to), next(from, to));
}

int unlink(const char *path)
{
    NEXT(int, unlink, const char *);
    WHOLE(strike_path(NAME, path), next(path));
}

int open64(const char *path, int flags, ...)
{
    NEXT(int, open64, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    WHOLE(flags & O_CREAT ? strike_path(NAME, path) : NOTHING, next(path, flags, mode));
}
