// The system calls of asynchronous write-protection with nothing around them: what a tracker is
// measured against. Loaded by benchmarks/memory/dirty.py.
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// linux/userfaultfd.h and linux/fs.h of 6.7, which distributions do not have yet.
#define UFFDIO_API 0xc018aa3fUL
#define UFFDIO_REGISTER 0xc020aa00UL
#define UFFDIO_UNREGISTER 0x8010aa01UL
#define PAGEMAP_SCAN 0xc0606610UL
#define NUM_REGIONS 65536
#define PAGE 4096

static int uffd = -1, pagemap = -1;
static uint64_t found[NUM_REGIONS][3];

// Write one byte of each page of a list; returns the seconds that took.
double write_pages(char *start, const uint64_t *pages, uint64_t num, char value) {
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (uint64_t i = 0; i < num; i++) start[pages[i] * PAGE] = value;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    return (ended.tv_sec - begun.tv_sec) + (ended.tv_nsec - begun.tv_nsec) * 1e-9;
}

// Returns how many pages were written; protects them anew.
int64_t bare_collect(uint64_t start, uint64_t end) {
    int64_t num_pages = 0;
    while (start < end) {
        uint64_t arg[12] = {96, 3, start, end, 0, (uint64_t)found, NUM_REGIONS, 0, 0, 2, 0, 2};
        long num = ioctl(pagemap, PAGEMAP_SCAN, arg);
        if (num < 0) return -1;
        for (long i = 0; i < num; i++) num_pages += (found[i][1] - found[i][0]) / PAGE;
        uint64_t reached = arg[4];
        if (num > 0 && found[num - 1][1] > reached) reached = found[num - 1][1];
        if (reached <= start) return -1;
        start = reached;
    }
    return num_pages;
}

int bare_open(uint64_t start, uint64_t end) {
    uint64_t api[3] = {0xaa, 1 << 15 | 1 << 13, 0}, range[4] = {start, end - start, 2, 0};
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (uffd < 0 || pagemap < 0 || ioctl(uffd, UFFDIO_API, api) ||
        ioctl(uffd, UFFDIO_REGISTER, range))
        return -1;
    return bare_collect(start, end) < 0 ? -1 : 0;
}

void bare_close(uint64_t start, uint64_t end) {
    uint64_t range[2] = {start, end - start};
    ioctl(uffd, UFFDIO_UNREGISTER, range);
    close(uffd);
    close(pagemap);
}
