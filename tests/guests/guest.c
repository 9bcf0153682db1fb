/* The desktop that tests move: it counts, answers, dirties its memory and writes its disk.
 *
 * Started by the initrd's /init as process 1. On the kernel's command line:
 *
 *     guest.dirty_mbps=8      MB of memory it rewrites each second, page by page
 *     guest.dirty_mb=64       the memory it does that in
 *     guest.disk_kbps=256     KB it writes to /dev/vda each second, in blocks of 4 KiB
 *     guest.disk_mb=16        the part of the disk it does that in
 *
 * TCP port 7 answers each line with one line, and port 8 streams the counter every 10 ms:
 *
 *     tick      BOOT COUNTER ASKED   which boot this is, 10 ms ticks so far, lines in this session
 *     check     ok PAGES BLOCKS      every page and block holds what was last put there
 *               bad PAGES BLOCKS     how many do not
 *     pause     paused               stop dirtying and writing, so that nothing but clocks moves
 *     go        going
 *
 * What a page or block must hold follows from its number and the round in which it was written;
 * the rounds are kept elsewhere in memory. So a page that travelled late, early or not at all shows.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define UNIT 4096
#define TICK_NS 10000000L
#define TICKS_PER_SECOND 100

static atomic_ulong counter;
static atomic_int is_paused;
static unsigned long boot_id;

/* Units of memory or disk, rewritten one after the other. */
struct area {
    pthread_mutex_t lock;
    uint32_t *rounds; /* of each unit; 0: never written */
    size_t units;
    size_t next;
    unsigned long bytes_per_second;
    unsigned char *memory; /* NULL: the area is on the disk */
    int disk;
};

static struct area pages = {.lock = PTHREAD_MUTEX_INITIALIZER, .disk = -1};
static struct area blocks = {.lock = PTHREAD_MUTEX_INITIALIZER, .disk = -1};

static unsigned long option(const char *name, unsigned long otherwise)
{
    char line[4096] = {0};
    FILE *file = fopen("/proc/cmdline", "r");
    if (file == NULL || fgets(line, sizeof line, file) == NULL)
        return otherwise;
    fclose(file);
    char *found = strstr(line, name);
    return found ? strtoul(found + strlen(name), NULL, 10) : otherwise;
}

/* Half noise, half text, so that it compresses as memory of people does. */
static void fill(unsigned char *unit, size_t number, uint32_t round)
{
    uint64_t *words = (uint64_t *)unit;
    uint64_t state = ((uint64_t)round << 32 | number) * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < UNIT / 8; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = i % 2 ? state : 0x6465736b746f7020u + round;
    }
}

static void put(struct area *area, unsigned char *buffer)
{
    size_t number = area->next;
    uint32_t round = area->rounds[number] + 1;
    if (area->memory != NULL) {
        fill(area->memory + number * UNIT, number, round);
    } else {
        fill(buffer, number, round);
        if (pwrite(area->disk, buffer, UNIT, (off_t)number * UNIT) != UNIT)
            return; /* its round stays, and so must its content */
    }
    area->rounds[number] = round;
    area->next = (number + 1) % area->units;
}

static void *rewrite(void *argument)
{
    struct area *area = argument;
    unsigned char *buffer = aligned_alloc(UNIT, UNIT);
    struct timespec tick = {0, TICK_NS};
    unsigned long owed = 0;
    while (1) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
        if (atomic_load(&is_paused))
            continue;
        owed += area->bytes_per_second / TICKS_PER_SECOND;
        pthread_mutex_lock(&area->lock);
        for (; owed >= UNIT; owed -= UNIT)
            put(area, buffer);
        pthread_mutex_unlock(&area->lock);
    }
    return NULL;
}

static size_t wrong_units(struct area *area)
{
    unsigned char *expected = aligned_alloc(UNIT, UNIT), *read = aligned_alloc(UNIT, UNIT);
    size_t wrong = 0;
    pthread_mutex_lock(&area->lock);
    for (size_t number = 0; number < area->units; number++) {
        const unsigned char *held = read;
        if (area->rounds[number] == 0)
            continue;
        fill(expected, number, area->rounds[number]);
        if (area->memory != NULL)
            held = area->memory + number * UNIT;
        else if (pread(area->disk, read, UNIT, (off_t)number * UNIT) != UNIT)
            memset(read, 0, UNIT);
        wrong += memcmp(held, expected, UNIT) != 0;
    }
    pthread_mutex_unlock(&area->lock);
    free(expected);
    free(read);
    return wrong;
}

static void *count(void *unused)
{
    struct timespec tick = {0, TICK_NS};
    while (1) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
        atomic_fetch_add(&counter, 1);
    }
    return unused;
}

static int answer(char *line, unsigned long asked, char *reply, size_t room)
{
    if (strncmp(line, "check", 5) == 0) {
        size_t bad_pages = wrong_units(&pages), bad_blocks = wrong_units(&blocks);
        int is_bad = bad_pages || bad_blocks;
        return snprintf(reply, room, "%s %zu %zu\n", is_bad ? "bad" : "ok",
                        is_bad ? bad_pages : pages.units, is_bad ? bad_blocks : blocks.units);
    }
    if (strncmp(line, "pause", 5) == 0) {
        atomic_store(&is_paused, 1);
        return snprintf(reply, room, "paused\n");
    }
    if (strncmp(line, "go", 2) == 0) {
        atomic_store(&is_paused, 0);
        return snprintf(reply, room, "going\n");
    }
    return snprintf(reply, room, "%lx %lu %lu\n", boot_id, atomic_load(&counter), asked);
}

static void *converse(void *argument)
{
    int connection = (int)(intptr_t)argument;
    FILE *lines = fdopen(connection, "r");
    char line[128], reply[128];
    unsigned long asked = 0;
    while (fgets(line, sizeof line, lines) != NULL) {
        int length = answer(line, ++asked, reply, sizeof reply);
        if (send(connection, reply, (size_t)length, MSG_NOSIGNAL) != length)
            break;
    }
    fclose(lines);
    return NULL;
}

static void *stream(void *argument)
{
    int connection = (int)(intptr_t)argument;
    struct timespec tick = {0, TICK_NS};
    char reply[128];
    for (unsigned long asked = 1;; asked++) {
        int length = answer("tick", asked, reply, sizeof reply);
        if (send(connection, reply, (size_t)length, MSG_NOSIGNAL) != length)
            break;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
    }
    close(connection);
    return NULL;
}

static void start(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument) == 0)
        pthread_detach(thread);
}

struct door {
    uint16_t port;
    void *(*serve)(void *);
};

static void *listen_at(void *argument)
{
    const struct door *door = argument;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(door->port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 16) != 0)
        perror("listen");
    while (1) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        start(door->serve, (void *)(intptr_t)connection);
    }
    return NULL;
}

/* The power button, as of a machine that is asked to shut down. */
static void *watch_button(void *argument)
{
    int device = open(argument, O_RDONLY | O_CLOEXEC);
    struct input_event event;
    while (device >= 0 && read(device, &event, sizeof event) == sizeof event) {
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
            sync();
            reboot(RB_POWER_OFF);
        }
    }
    return NULL;
}

int main(void)
{
    static const struct door echo = {7, converse}, feed = {8, stream};
    setvbuf(stdout, NULL, _IOLBF, 0);
    FILE *random_file = fopen("/dev/urandom", "r");
    if (random_file == NULL || fread(&boot_id, sizeof boot_id, 1, random_file) != 1)
        boot_id = (unsigned long)time(NULL);

    pages.units = option("guest.dirty_mb=", 16) * 1024 * 1024 / UNIT;
    pages.bytes_per_second = option("guest.dirty_mbps=", 0) * 1000000;
    pages.rounds = calloc(pages.units, sizeof *pages.rounds);
    pages.memory = mmap(NULL, pages.units * UNIT, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    blocks.units = option("guest.disk_mb=", 8) * 1024 * 1024 / UNIT;
    blocks.bytes_per_second = option("guest.disk_kbps=", 0) * 1000;
    blocks.rounds = calloc(blocks.units, sizeof *blocks.rounds);
    blocks.disk = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);

    start(count, NULL);
    start(listen_at, (void *)&echo);
    start(listen_at, (void *)&feed);
    start(watch_button, "/dev/input/event0");
    start(watch_button, "/dev/input/event1");
    if (pages.bytes_per_second > 0)
        start(rewrite, &pages);
    if (blocks.bytes_per_second > 0 && blocks.disk >= 0)
        start(rewrite, &blocks);
    printf("guest: ready, boot %lx, disk %s\n", boot_id, blocks.disk >= 0 ? "found" : "missing");
    while (1) {
        sleep(1);
        printf("guest: %lu\n", atomic_load(&counter));
    }
}
