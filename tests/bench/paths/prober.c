/* Does one job in one directory and says what it cost, with nothing but system calls in between.
 *
 *     prober ROOT readdir|stat|open|sequential|random PASSES LIST
 *     prober ROOT run PASSES PROGRAM [ARGUMENT...]
 *
 * LIST holds relative paths, each ended by a zero byte, and is read before the clock starts. "run"
 * starts a program with ROOT as its root. Prints, as JSON: nanoseconds of wall time and of CPU time
 * (user and system, of the program for "run"), and how many things and bytes were met, by
 * which the caller knows that every place held the same. Exits 1 with a message when anything fails.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SMALL_READ = 1 << 16, LARGE_READ = 1 << 20, RANDOM_READ = 4096, RANDOM_READS = 20000 };

static char buffer[LARGE_READ];
static char **paths;
static size_t path_count;
static uint64_t things, bytes;

static void fail(const char *what, const char *path)
{
	fprintf(stderr, "prober: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static uint64_t now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void read_list(const char *name)
{
	struct stat status;
	int file = open(name, O_RDONLY);
	if (file < 0 || fstat(file, &status) != 0)
		fail("cannot read the list", name);
	size_t size = (size_t)status.st_size, done = 0;
	char *text = malloc(size + 1);
	while (text && done < size) {
		ssize_t got = read(file, text + done, size - done);
		if (got <= 0)
			fail("cannot read the list", name);
		done += (size_t)got;
	}
	close(file);
	for (size_t at = 0; at < size; at++)
		path_count += text[at] == 0;
	paths = calloc(path_count + 1, sizeof *paths);
	if (!text || !paths)
		fail("no memory for the list", name);
	text[size] = 0;
	char *at = text;
	for (size_t index = 0; index < path_count; index++, at += strlen(at) + 1)
		paths[index] = at;
}

static void read_directories(void)
{
	for (size_t index = 0; index < path_count; index++) {
		int directory = open(paths[index], O_RDONLY | O_DIRECTORY);
		if (directory < 0)
			fail("cannot open", paths[index]);
		long got;
		while ((got = syscall(SYS_getdents64, directory, buffer, SMALL_READ)) > 0)
			for (long at = 0; at < got;) {
				struct dirent64 *entry = (struct dirent64 *)(buffer + at);
				things += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
				at += entry->d_reclen;
			}
		if (got < 0)
			fail("cannot list", paths[index]);
		close(directory);
	}
}

static void stat_all(void)
{
	struct stat status;
	for (size_t index = 0; index < path_count; index++, things++) {
		if (fstatat(AT_FDCWD, paths[index], &status, AT_SYMLINK_NOFOLLOW) != 0)
			fail("cannot stat", paths[index]);
		bytes += S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
	}
}

static void read_whole(size_t step)
{
	for (size_t index = 0; index < path_count; index++, things++) {
		int file = open(paths[index], O_RDONLY);
		if (file < 0)
			fail("cannot open", paths[index]);
		ssize_t got;
		while ((got = read(file, buffer, step)) > 0)
			bytes += (uint64_t)got;
		if (got < 0)
			fail("cannot read", paths[index]);
		close(file);
	}
}

static void read_at_random(void)
{
	uint64_t state = 88172645463325252u; /* xorshift64: the same places every time */
	int *files = calloc(path_count, sizeof *files);
	off_t *blocks = calloc(path_count, sizeof *blocks);
	for (size_t index = 0; index < path_count; index++) {
		struct stat status;
		files[index] = open(paths[index], O_RDONLY);
		if (files[index] < 0 || fstat(files[index], &status) != 0)
			fail("cannot open", paths[index]);
		blocks[index] = status.st_size / RANDOM_READ;
	}
	for (int turn = 0; turn < RANDOM_READS; turn++, things++) {
		state ^= state << 13, state ^= state >> 7, state ^= state << 17;
		size_t index = (size_t)(state % path_count);
		off_t block = (off_t)((state >> 20) % (uint64_t)blocks[index]);
		ssize_t got = pread(files[index], buffer, RANDOM_READ, block * RANDOM_READ);
		if (got != RANDOM_READ)
			fail("cannot read", paths[index]);
		bytes += (uint64_t)got;
	}
	for (size_t index = 0; index < path_count; index++)
		close(files[index]);
	free(files);
	free(blocks);
}

static void run_program(const char *root, char **command)
{
	int silence = open("/dev/null", O_RDWR);
	pid_t child = fork();
	if (child == 0) {
		dup2(silence, 0);
		dup2(silence, 1);
		if (chroot(root) != 0 || chdir("/") != 0)
			fail("cannot enter", root);
		execv(command[0], command);
		fail("cannot run", command[0]);
	}
	int status;
	if (child < 0 || waitpid(child, &status, 0) != child)
		fail("cannot start", command[0]);
	close(silence);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "prober: %s ended with status %d\n", command[0], status);
		exit(1);
	}
	things++;
}

static uint64_t cpu(int who)
{
	struct rusage used;
	getrusage(who, &used);
	return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000u +
	       (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000u;
}

int main(int count, char **words)
{
	if (count < 5) {
		fprintf(stderr, "usage: prober ROOT JOB PASSES LIST|PROGRAM...\n");
		return 2;
	}
	const char *root = words[1], *job = words[2];
	int passes = atoi(words[3]), runs = strcmp(job, "run") == 0;
	if (!runs)
		read_list(words[4]);
	if (!runs && chdir(root) != 0)
		fail("cannot enter", root);
	memset(buffer, 1, sizeof buffer); /* its own page faults are nobody's */
	uint64_t wall = now(CLOCK_MONOTONIC);
	uint64_t used = runs ? cpu(RUSAGE_CHILDREN) : now(CLOCK_PROCESS_CPUTIME_ID);
	for (int pass = 0; pass < passes; pass++) {
		if (runs)
			run_program(root, words + 4);
		else if (strcmp(job, "readdir") == 0)
			read_directories();
		else if (strcmp(job, "stat") == 0)
			stat_all();
		else if (strcmp(job, "open") == 0)
			read_whole(SMALL_READ);
		else if (strcmp(job, "sequential") == 0)
			read_whole(LARGE_READ);
		else if (strcmp(job, "random") == 0)
			read_at_random();
		else {
			fprintf(stderr, "prober: no job %s\n", job);
			return 2;
		}
	}
	used = (runs ? cpu(RUSAGE_CHILDREN) : now(CLOCK_PROCESS_CPUTIME_ID)) - used;
	wall = now(CLOCK_MONOTONIC) - wall;
	printf("{\"wall_ns\": %llu, \"cpu_ns\": %llu, \"things\": %llu, \"bytes\": %llu}\n",
	       (unsigned long long)wall, (unsigned long long)used, (unsigned long long)things,
	       (unsigned long long)bytes);
	return 0;
}
