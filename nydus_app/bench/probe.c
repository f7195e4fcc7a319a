/* The measuring stick of nydus-bench: it does one thing to a file or a tree and prints
 *
 *     COUNT BYTES SECONDS
 *
 * It is C because a warm stat takes half a microsecond, which an interpreter would drown.
 *
 *   await PATH SECONDS          wait until PATH can be stat'ed; SECONDS printed is CLOCK_MONOTONIC of that moment
 *   survey ROOT LIMIT           entries, directories, files, bytes, small files and their bytes, largest file
 *   head FILE BYTES             the first BYTES
 *   seq FILE SECONDS            the whole file, 128 KiB a read, again until SECONDS are over (0: once)
 *   scatter FILE SEED           4 KiB in every MiB, in random order
 *   random FILE SECONDS SEED    4 KiB at random places
 *   stat ROOT SECONDS           lstat of every path
 *   list ROOT SECONDS           entries of every directory
 *   small ROOT LIMIT SECONDS    open, read and close every regular file of at most LIMIT bytes
 *   walk ROOT                   lstat of everything, while it is found
 *   full ROOT                   the same, and every regular file is read
 *
 * Trees are walked before the clock starts (but for `walk` and `full`), sorted by name, so that every file system is
 * asked in the same order. Only regular files are opened.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024
#define MIB (1024 * 1024)

static char buffer[MIB];

static void die(const char *path)
{
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int report(uint64_t count, uint64_t bytes, double seconds)
{
    printf("%llu %llu %.9f\n", (unsigned long long)count, (unsigned long long)bytes, seconds);
    return 0;
}

/* xorshift64*, Vigna 2014. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

/* No fstat where nobody asks for the size: after a read FUSE makes it an upcall, because the access time is stale. */
static int open_file(const char *path, uint64_t *size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (size && fstat(fd, &st) != 0))
        die(path);
    if (size)
        *size = (uint64_t)st.st_size;
    return fd;
}

static uint64_t read_to_end(int fd, const char *path, size_t step)
{
    uint64_t bytes = 0;
    ssize_t got;
    while ((got = read(fd, buffer, step)) > 0)
        bytes += (uint64_t)got;
    if (got < 0)
        die(path);
    return bytes;
}

static void read_block(int fd, const char *path, uint64_t block, uint64_t size)
{
    uint64_t at = block * 4 * KIB, left = size - at;
    ssize_t wanted = left < 4 * KIB ? (ssize_t)left : 4 * KIB;
    ssize_t got = pread(fd, buffer, (size_t)wanted, (off_t)at);
    if (got != wanted) {
        errno = got < 0 ? errno : ENODATA;
        die(path);
    }
}

/* ---- trees --------------------------------------------------------------------------------- */

struct entry {
    char *path;
    mode_t mode;
    uint64_t size;
};

struct tree {
    struct entry *entries;
    size_t count, room;
};

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static FTS *open_walk(const char *root)
{
    char *roots[] = {(char *)root, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, by_name);
    if (!walk)
        die(root);
    return walk;
}

/* The next entry before its children, or NULL at the end. */
static FTSENT *next_entry(FTS *walk)
{
    FTSENT *e;
    errno = 0;
    while ((e = fts_read(walk))) {
        if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS) {
            errno = e->fts_errno;
            die(e->fts_path);
        }
        if (e->fts_info != FTS_DP)
            return e;
    }
    if (errno)
        die("walk");
    return NULL;
}

static struct tree walk_tree(const char *root)
{
    struct tree tree = {0};
    FTS *walk = open_walk(root);
    for (FTSENT *e; (e = next_entry(walk));) {
        if (tree.count == tree.room) {
            tree.room = tree.room ? 2 * tree.room : 8192;
            tree.entries = realloc(tree.entries, tree.room * sizeof *tree.entries);
            if (!tree.entries)
                die(root);
        }
        struct entry *new = &tree.entries[tree.count++];
        new->path = strdup(e->fts_path);
        if (!new->path)
            die(root);
        new->mode = e->fts_statp->st_mode;
        new->size = (uint64_t)e->fts_statp->st_size;
    }
    fts_close(walk);
    return tree;
}

static int survey(const char *root, uint64_t limit)
{
    struct tree tree = walk_tree(root);
    uint64_t directories = 0, files = 0, bytes = 0, small = 0, small_bytes = 0, largest = 0;
    const char *big = "";
    for (size_t i = 0; i < tree.count; i++) {
        struct entry *e = &tree.entries[i];
        directories += S_ISDIR(e->mode) ? 1 : 0;
        if (!S_ISREG(e->mode))
            continue;
        files++;
        bytes += e->size;
        if (e->size <= limit)
            small++, small_bytes += e->size;
        if (e->size > largest)
            largest = e->size, big = e->path + strlen(root);
    }
    printf("%zu %llu %llu %llu %llu %llu %llu\n%s", tree.count, (unsigned long long)directories,
           (unsigned long long)files, (unsigned long long)bytes, (unsigned long long)small,
           (unsigned long long)small_bytes, (unsigned long long)largest, big);
    return 0;
}

static uint64_t stat_once(const struct tree *tree)
{
    struct stat st;
    for (size_t i = 0; i < tree->count; i++)
        if (lstat(tree->entries[i].path, &st) != 0)
            die(tree->entries[i].path);
    return tree->count;
}

static uint64_t list_once(const struct tree *tree)
{
    uint64_t count = 0;
    for (size_t i = 0; i < tree->count; i++) {
        if (!S_ISDIR(tree->entries[i].mode))
            continue;
        DIR *folder = opendir(tree->entries[i].path);
        if (!folder)
            die(tree->entries[i].path);
        errno = 0;
        while (readdir(folder))
            count++;
        if (errno)
            die(tree->entries[i].path);
        closedir(folder);
    }
    return count;
}

static uint64_t read_file(const char *path)
{
    int fd = open_file(path, NULL);
    uint64_t bytes = read_to_end(fd, path, 128 * KIB);
    close(fd);
    return bytes;
}

static uint64_t small_once(const struct tree *tree, uint64_t limit, uint64_t *bytes)
{
    uint64_t count = 0;
    for (size_t i = 0; i < tree->count; i++) {
        const struct entry *e = &tree->entries[i];
        if (S_ISREG(e->mode) && e->size <= limit) {
            *bytes += read_file(e->path);
            count++;
        }
    }
    return count;
}

static int again(const char *root, const char *what, uint64_t limit, double seconds)
{
    struct tree tree = walk_tree(root);
    uint64_t count = 0, bytes = 0;
    double start = now(), spent;
    do {
        if (*what == 's' && what[1] == 't')
            count += stat_once(&tree);
        else if (*what == 'l')
            count += list_once(&tree);
        else
            count += small_once(&tree, limit, &bytes);
        spent = now() - start;
    } while (count && spent < seconds);
    return report(count, bytes, spent);
}

static int walk_once(const char *root, int reads)
{
    uint64_t count = 0, bytes = 0;
    double start = now();
    FTS *walk = open_walk(root);
    for (FTSENT *e; (e = next_entry(walk)); count++)
        if (reads && S_ISREG(e->fts_statp->st_mode))
            bytes += read_file(e->fts_path);
    fts_close(walk);
    return report(count, bytes, now() - start);
}

/* ---- one file ------------------------------------------------------------------------------ */

static int await(const char *path, double seconds)
{
    struct timespec pause = {0, 500 * 1000};
    struct stat st;
    double end = now() + seconds;
    while (stat(path, &st) != 0) {
        if (now() > end)
            die(path);
        nanosleep(&pause, NULL);
    }
    return report(1, 0, now());
}

static int head(const char *path, uint64_t wanted)
{
    uint64_t bytes = 0;
    double start = now();
    int fd = open_file(path, NULL);
    while (bytes < wanted) {
        size_t step = wanted - bytes < MIB ? (size_t)(wanted - bytes) : MIB;
        ssize_t got = read(fd, buffer, step);
        if (got < 0)
            die(path);
        if (got == 0)
            break;
        bytes += (uint64_t)got;
    }
    return report(1, bytes, now() - start);
}

static int seq(const char *path, double seconds)
{
    uint64_t size, bytes = 0, passes = 0;
    int fd = open_file(path, &size);
    double start = now(), spent;
    do {
        uint64_t got = read_to_end(fd, path, 128 * KIB);
        if (got != size) {
            errno = ENODATA;
            die(path);
        }
        bytes += got;
        passes++;
        if (lseek(fd, 0, SEEK_SET) != 0)
            die(path);
        spent = now() - start;
    } while (spent < seconds);
    return report(passes, bytes, spent);
}

static int scatter(const char *path, uint64_t seed)
{
    uint64_t size;
    int fd = open_file(path, &size);
    uint64_t blocks = (size + 4 * KIB - 1) / (4 * KIB), per = MIB / (4 * KIB), count = (blocks + per - 1) / per;
    uint64_t *order = calloc(count ? count : 1, sizeof *order);
    if (!order)
        die(path);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t in_this = blocks - i * per < per ? blocks - i * per : per, j = next_random(&seed) % (i + 1);
        order[i] = order[j];
        order[j] = i * per + next_random(&seed) % in_this;
    }
    double start = now();
    for (uint64_t i = 0; i < count; i++)
        read_block(fd, path, order[i], size);
    return report(count, count * 4 * KIB, now() - start);
}

static int random_reads(const char *path, double seconds, uint64_t seed)
{
    uint64_t size, count = 0;
    int fd = open_file(path, &size);
    uint64_t blocks = (size + 4 * KIB - 1) / (4 * KIB);
    double start = now(), spent;
    do {
        for (int i = 0; blocks && i < 256; i++, count++)
            read_block(fd, path, next_random(&seed) % blocks, size);
        spent = now() - start;
    } while (blocks && spent < seconds);
    return report(count, count * 4 * KIB, spent);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "", *path = argc > 2 ? argv[2] : "";
    const char *a = argc > 3 ? argv[3] : "0", *b = argc > 4 ? argv[4] : "0";
    if (!strcmp(what, "await"))
        return await(path, atof(a));
    if (!strcmp(what, "survey"))
        return survey(path, strtoull(a, NULL, 10));
    if (!strcmp(what, "head"))
        return head(path, strtoull(a, NULL, 10));
    if (!strcmp(what, "seq"))
        return seq(path, atof(a));
    if (!strcmp(what, "scatter"))
        return scatter(path, strtoull(a, NULL, 10) + 1);
    if (!strcmp(what, "random"))
        return random_reads(path, atof(a), strtoull(b, NULL, 10) + 1);
    if (!strcmp(what, "stat") || !strcmp(what, "list"))
        return again(path, what, 0, atof(a));
    if (!strcmp(what, "small"))
        return again(path, what, strtoull(a, NULL, 10), atof(b));
    if (!strcmp(what, "walk") || !strcmp(what, "full"))
        return walk_once(path, *what == 'f');
    fprintf(stderr, "no such measurement: %s\n", what);
    return 1;
}
