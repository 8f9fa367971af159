// The client of the stores bench, one of the machines that are saved: writes into etcd by each of its members and into
// redis by its primary, and keeps a log of what was acknowledged.
//   client CONSOLE LOG STOP MEMBER...
//   client post PATH BODY        asks this machine's member of etcd, and prints the answer's body
// CONSOLE gets a report four times a second. LOG gets a line for each acknowledged write: `e NUMBER VALUE MEMBER` of etcd,
// `r NUMBER VALUE COPIES` of redis (COPIES: replicas that had it too, as WAIT tells). Once the file STOP is there, nothing
// more is begun. A number is used once. A value has the time in it: what is written after a restore differs from what
// was written under the same number before.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// As clients' libraries have it: silent for longer, and the connection is given up.
enum { PATIENCE_S = 5, MOST_MEMBERS = 8, ETCD_PORT = 2379, REDIS_PORT = 6379, PAUSE_US = 400000, REDIS_PAUSE_US = 200000, WAIT_MS = 1000 };

static struct {
  struct in_addr address;
  // acked: writes acknowledged. lost: connections that broke. silent: connections given up. idle: it has stopped.
  atomic_uint_fast64_t acked, lost, silent;
  atomic_bool idle;
} member[MOST_MEMBERS], primary;
static atomic_uint_fast64_t copied;
static unsigned members;
static atomic_uint_fast64_t etcd_number, redis_number;
static const char *stop_file;
static int log_file, console;

static uint64_t monotonic_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static bool stopped(void) { return access(stop_file, F_OK) == 0; }

static void acknowledged(char store, uint64_t number, const char *value, unsigned more) {
  char line[96];
  int length = snprintf(line, sizeof line, "%c %" PRIu64 " %s %u\n", store, number, value, more);
  // One write with O_APPEND: lines of several threads do not mix.
  if (write(log_file, line, (size_t)length) != length) abort();
}

static int connect_to(struct in_addr address, uint16_t port) {
  const struct timeval patience = {.tv_sec = PATIENCE_S};
  const int on = 1;
  struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, (struct sockaddr *)&there, sizeof there) == 0) return fd;
  close(fd);
  return -1;
}

// Sends all, then reads until `whole` says that the answer is there. False: the connection is of no more use, errno says why.
static bool ask(int fd, const char *request, size_t length, char *answer, size_t room, bool (*whole)(const char *)) {
  for (size_t done = 0; done < length;) {
    ssize_t n = send(fd, request + done, length - done, MSG_NOSIGNAL);
    if (n < 0) return false;
    done += (size_t)n;
  }
  for (size_t have = 0; have + 1 < room;) {
    ssize_t n = recv(fd, answer + have, room - 1 - have, 0);
    if (n == 0) errno = ECONNRESET;
    if (n <= 0) return false;
    have += (size_t)n;
    answer[have] = 0;
    if (whole(answer)) return true;
  }
  errno = EMSGSIZE;
  return false;
}

static bool whole_http(const char *answer) {
  const char *end = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "\r\nContent-Length:");
  if (end == NULL) return false;
  if (length == NULL || length > end) return true;
  return strlen(end + 4) >= strtoul(length + 17, NULL, 10);
}

static bool whole_line(const char *answer) { return strstr(answer, "\r\n") != NULL; }

static void base64(const char *from, char *to) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  size_t length = strlen(from);
  for (size_t i = 0; i < length; i += 3) {
    unsigned long bits = (unsigned long)(unsigned char)from[i] << 16;
    if (i + 1 < length) bits |= (unsigned long)(unsigned char)from[i + 1] << 8;
    if (i + 2 < length) bits |= (unsigned char)from[i + 2];
    for (int digit = 0; digit < 4; digit++) *to++ = i + (size_t)digit > length ? '=' : digits[bits >> (18 - 6 * digit) & 63];
  }
  *to = 0;
}

static void note(int *fd, atomic_uint_fast64_t *lost, atomic_uint_fast64_t *silent) {
  atomic_fetch_add(errno == EAGAIN || errno == EINPROGRESS ? silent : lost, 1);
  close(*fd);
  *fd = -1;
}

static void *write_etcd(void *argument) {
  const unsigned index = (unsigned)(uintptr_t)argument;
  int fd = -1;
  for (; !stopped(); usleep(PAUSE_US)) {
    if (fd < 0 && (fd = connect_to(member[index].address, ETCD_PORT)) < 0) continue;
    char key[32], value[48], key64[64], value64[80], body[200], request[512], answer[2048];
    const uint64_t number = atomic_fetch_add(&etcd_number, 1);
    snprintf(key, sizeof key, "k%07" PRIu64, number);
    snprintf(value, sizeof value, "%" PRIu64, monotonic_us());
    base64(key, key64);
    base64(value, value64);
    int length = snprintf(body, sizeof body, "{\"key\":\"%s\",\"value\":\"%s\"}", key64, value64);
    length = snprintf(request, sizeof request, "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body);
    if (!ask(fd, request, (size_t)length, answer, sizeof answer, whole_http)) {
      note(&fd, &member[index].lost, &member[index].silent);
      continue;
    }
    if (strncmp(answer, "HTTP/1.1 200", 12) != 0) continue;
    acknowledged('e', number, value, index);
    atomic_fetch_add(&member[index].acked, 1);
  }
  atomic_store(&member[index].idle, true);
  return NULL;
}

static void *write_redis(void *unused) {
  (void)unused;
  int fd = -1;
  for (; !stopped(); usleep(REDIS_PAUSE_US)) {
    if (fd < 0 && (fd = connect_to(primary.address, REDIS_PORT)) < 0) continue;
    char value[48], request[160], answer[256];
    const uint64_t number = atomic_fetch_add(&redis_number, 1);
    snprintf(value, sizeof value, "%" PRIu64, monotonic_us());
    int length = snprintf(request, sizeof request, "SET k%07" PRIu64 " %s\r\n", number, value);
    if (!ask(fd, request, (size_t)length, answer, sizeof answer, whole_line)) {
      note(&fd, &primary.lost, &primary.silent);
      continue;
    }
    if (answer[0] != '+') continue;
    length = snprintf(request, sizeof request, "WAIT %u %d\r\n", members - 1, WAIT_MS);
    unsigned copies = 0;
    const bool answered = ask(fd, request, (size_t)length, answer, sizeof answer, whole_line);
    if (answered && answer[0] == ':') copies = (unsigned)atoi(answer + 1);
    acknowledged('r', number, value, copies);
    atomic_fetch_add(&primary.acked, 1);
    if (copies >= members - 1) atomic_fetch_add(&copied, 1);
    if (!answered) note(&fd, &primary.lost, &primary.silent);
  }
  atomic_store(&primary.idle, true);
  return NULL;
}

static void say(const char *text) {
  ssize_t said = write(console, text, strlen(text));
  (void)said;
}

static void report(void) {
  char line[1024];
  bool idle = primary.idle;
  int at = snprintf(line, sizeof line, "@lab {\"type\":\"progress\",\"node\":0,\"ms\":%" PRIu64 ",\"send\":[],\"receive\":[],\"stores\":{\"etcd\":[", monotonic_us() / 1000);
  for (unsigned i = 0; i < members; i++) {
    idle = idle && member[i].idle;
    at += snprintf(line + at, sizeof line - (size_t)at, "%s{\"acked\":%" PRIuFAST64 ",\"lost\":%" PRIuFAST64 ",\"silent\":%" PRIuFAST64 "}", i > 0 ? "," : "",
                   member[i].acked, member[i].lost, member[i].silent);
  }
  snprintf(line + at, sizeof line - (size_t)at,
           "],\"redis\":{\"acked\":%" PRIuFAST64 ",\"copied\":%" PRIuFAST64 ",\"lost\":%" PRIuFAST64 ",\"silent\":%" PRIuFAST64 "},\"begun\":{\"etcd\":%" PRIuFAST64
           ",\"redis\":%" PRIuFAST64 "},\"idle\":%s}}\n",
           primary.acked, copied, primary.lost, primary.silent, etcd_number, redis_number, idle ? "true" : "false");
  say(line);
}

static int post(const char *path, const char *body) {
  char data[65536];
  const struct in_addr here = {.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = connect_to(here, ETCD_PORT);
  // HTTP/1.0: the body is not in chunks, and the connection's end is its end.
  int length = snprintf(data, sizeof data, "POST /v3/%s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body);
  if (fd < 0 || send(fd, data, (size_t)length, MSG_NOSIGNAL) != length) return 1;
  size_t have = 0;
  const char *text = NULL;
  for (ssize_t n; (n = recv(fd, data + have, sizeof data - 1 - have, 0)) > 0;) {
    have += (size_t)n;
    data[have] = 0;
    if (text == NULL && (text = strstr(data, "\r\n\r\n")) == NULL) continue;
    const char *from = text == data ? data : text + 4;
    if (fwrite(from, 1, have - (size_t)(from - data), stdout) == 0 && have > (size_t)(from - data)) return 1;
    // What comes now is body from its first byte on.
    text = data;
    have = 0;
  }
  return fflush(stdout) == 0 && text != NULL ? 0 : 1;
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "post") == 0) return post(argv[2], argv[3]);
  if (argc < 5 || argc - 4 > MOST_MEMBERS) {
    fputs("usage: client CONSOLE LOG STOP MEMBER...\n", stderr);
    return 2;
  }
  console = open(argv[1], O_WRONLY | O_NOCTTY | O_CLOEXEC);
  log_file = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  stop_file = argv[3];
  members = (unsigned)argc - 4;
  for (unsigned i = 0; i < members; i++)
    if (inet_pton(AF_INET, argv[4 + i], &member[i].address) != 1) return 2;
  primary.address = member[0].address;
  say("@lab {\"type\":\"start\",\"node\":0,\"ms\":0}\n");
  pthread_t thread;
  for (unsigned i = 0; i < members; i++) pthread_create(&thread, NULL, write_etcd, (void *)(uintptr_t)i);
  pthread_create(&thread, NULL, write_redis, NULL);
  for (;; usleep(250000)) report();
}
