/*
 * Runs a command on one core and tells what it used.
 *
 *     measure CORE REPORT COMMAND [ARGUMENT…]
 *
 * Writes "seconds cpu_us peak_kb" to the file REPORT; the exit status is the command's, which ends
 * when this does. A small program of its own, because a child inherits the peak memory of the
 * process it was forked from.
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long long microseconds(struct timeval t)
{
    return t.tv_sec * 1000000LL + t.tv_usec;
}

static int pin(const char *core)
{
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET((size_t)atoi(core), &cores);
    return sched_setaffinity(0, sizeof cores, &cores);
}

int main(int argc, char **argv)
{
    struct rusage used;
    int status;

    if (argc < 4 || prctl(PR_SET_PDEATHSIG, SIGKILL) || pin(argv[1])) {
        perror("measure");
        return 127;
    }
    double began = now();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &used) != child) {
        perror("measure");
        return 127;
    }
    double seconds = now() - began;
    FILE *report = fopen(argv[2], "w");
    if (!report ||
        fprintf(report, "%.6f %lld %ld\n", seconds,
                microseconds(used.ru_utime) + microseconds(used.ru_stime), used.ru_maxrss) < 0 ||
        fclose(report)) {
        perror(argv[2]);
        return 127;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
