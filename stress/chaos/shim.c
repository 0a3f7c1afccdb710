/* Preloaded into servers and nodes, to make the disk slow or the wall clock jump, without privileges.
 *
 * Two files in the process's working directory control it. They are read at most ten times a second:
 * `slow-fsync` holds the milliseconds by which every fsync is delayed, `clock-jump` the seconds by which the wall clock
 * is ahead. CLOCK_MONOTONIC is not changed, because on a real machine it never jumps; timers and leases use it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Uses the system call directly, because clock_gettime is replaced below. */
static long now_ms(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static long control(const char *name, long *value, long *read_at) {
    long now = now_ms();
    if (now - *read_at >= 100) {
        FILE *file = fopen(name, "r");
        *read_at = now;
        if (!file || fscanf(file, "%ld", value) != 1) *value = 0;
        if (file) fclose(file);
    }
    return *value;
}

static long jump(void) {
    static long value, read_at = -1000;
    return control("clock-jump", &value, &read_at);
}

static void wait_for_disk(void) {
    static long value, read_at = -1000;
    long ms = control("slow-fsync", &value, &read_at);
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    if (ms) nanosleep(&t, NULL);
}

int fsync(int fd) {
    wait_for_disk();
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    wait_for_disk();
    return syscall(SYS_fdatasync, fd);
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, t);
    if (status == 0 && clock == CLOCK_REALTIME) t->tv_sec += jump();
    return status;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return status;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
