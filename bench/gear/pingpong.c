// Measuring gear: UDP round trips, one at a time, by blocking calls as an ordinary application makes them.
//   pingpong echo PORT                                       says "ready" on stderr, answers until SIGTERM
//   pingpong ping ADDRESS PORT SAMPLES GAP_US MILLISECONDS [SIZE]
// GAP_US: pause between exchanges (0: back to back). SIZE: payload (default 8, at least 8).
// `ping` throws away the first 200 exchanges or 100 ms (caches, FDB, frequency), ends at SAMPLES or at the deadline, and
// prints one line of JSON: count, lost and microseconds min, p50, p90, p99, max, mean. An exchange without an answer within
// 200 ms is lost and counts as one of 200 ms: left out, it would flatter the percentiles.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define WARMUP_EXCHANGES 200
#define WARMUP_NS 100000000u
#define PATIENCE_US 200000
#define LARGEST 9000

static void fail(const char *what) {
  fprintf(stderr, "pingpong: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void echo(const char *port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) fail("socket");
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  fputs("ready\n", stderr);
  for (;;) {
    char data[LARGEST];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t size = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
    if (size >= 0) sendto(fd, data, (size_t)size, 0, (struct sockaddr *)&from, length);
  }
}

static void ping(char **argument) {
  int samples = atoi(argument[2]), payload = argument[5] == NULL ? 8 : atoi(argument[5]);
  long gap = atol(argument[3]) * 1000;
  uint64_t begin = now_ns(), deadline = begin + strtoull(argument[4], NULL, 10) * 1000000u;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[1]))};
  if (samples < 1 || payload < 8 || payload > LARGEST || inet_pton(AF_INET, argument[0], &address.sin_addr) != 1) {
    errno = EINVAL;
    fail("address, samples or size");
  }
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) fail("socket");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
  struct timeval wait = {.tv_usec = PATIENCE_US};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) < 0) fail("SO_RCVTIMEO");

  uint64_t *taken = calloc((size_t)samples, sizeof *taken);
  if (taken == NULL) fail("calloc");
  int count = 0, lost = 0, exchanges = 0;
  double sum = 0;
  while (count < samples && now_ns() < deadline) {
    static char data[LARGEST];
    uint64_t number = (uint64_t)exchanges++, answer = 0;
    memcpy(data, &number, sizeof number);
    if (gap > 0) {
      struct timespec pause = {.tv_nsec = gap};
      nanosleep(&pause, NULL);
    }
    uint64_t start = now_ns();
    if (send(fd, data, (size_t)payload, 0) < 0) fail("send");
    ssize_t size;
    // An answer that comes after its exchange was given up is read and thrown away here.
    do {
      size = recv(fd, data, sizeof data, 0);
      memcpy(&answer, data, sizeof answer);
    } while (size == payload && answer != number);
    uint64_t end = now_ns();
    if (size < 0) {
      if (errno != EAGAIN && errno != ECONNREFUSED) fail("recv");
      lost++;
    }
    if (exchanges <= WARMUP_EXCHANGES && end - begin < WARMUP_NS) continue;
    uint64_t took = size < 0 ? PATIENCE_US * 1000ull : end - start;
    taken[count++] = took;
    sum += (double)took;
  }
  if (count == 0) {
    printf("{\"count\":0,\"lost\":%d}\n", lost);
    return;
  }
  qsort(taken, (size_t)count, sizeof *taken, ascending);
#define AT(q) ((double)taken[(int)((double)(count - 1) * (q))] / 1e3)
  printf("{\"count\":%d,\"lost\":%d,\"min\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f,\"mean\":%.3f}\n", count,
         lost, AT(0.0), AT(0.5), AT(0.9), AT(0.99), AT(1.0), sum / count / 1e3);
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "echo") == 0) echo(argv[2]);
  else if ((argc == 7 || argc == 8) && strcmp(argv[1], "ping") == 0) ping(argv + 2);
  else {
    fputs("usage: pingpong echo PORT\n       pingpong ping ADDRESS PORT SAMPLES GAP_US MILLISECONDS [SIZE]\n", stderr);
    return 2;
  }
  return 0;
}
