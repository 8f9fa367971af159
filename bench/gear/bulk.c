// Measuring gear: one bulk TCP flow, as an application sees it.
//   bulk receive PORT FILE    says "ready" on stderr, takes one connection, reads it to its end
//   bulk send ADDRESS PORT FILE   sends as fast as it can until SIGTERM
// Each writes one line of JSON to FILE at its end. `receive`: bytes, seconds and every pause between two reads of at least
// GAP_US, as [start, length] in microseconds. `send`: bytes acknowledged, seconds, retransmissions, and when they were
// seen, as [time, how many]. Times are CLOCK_REALTIME, so that they can be laid beside a snapshot's stamps; lengths are
// monotonic.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GAP_US 2000
#define MAX_EVENTS 100000
#define BLOCK (128 << 10)

static char block[BLOCK];
static uint64_t event[MAX_EVENTS][2];
static int events, unkept;
static volatile sig_atomic_t stop;

static void fail(const char *what) {
  fprintf(stderr, "bulk: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void on_stop(int signal) {
  (void)signal;
  stop = 1;
}

static uint64_t clock_us(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void keep(uint64_t time, uint64_t value) {
  if (events == MAX_EVENTS) {
    unkept++;
    return;
  }
  event[events][0] = time;
  event[events++][1] = value;
}

static void write_result(const char *file, const char *fields, const char *list) {
  FILE *out = fopen(file, "w");
  if (out == NULL) fail(file);
  fprintf(out, "{%s,\"unkept\":%d,\"%s\":[", fields, unkept, list);
  for (int i = 0; i < events; i++)
    fprintf(out, "%s[%llu,%llu]", i > 0 ? "," : "", (unsigned long long)event[i][0], (unsigned long long)event[i][1]);
  fputs("]}\n", out);
  if (fclose(out) != 0) fail(file);
}

static void receive(const char *port, const char *file) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (listener < 0) fail("socket");
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 1) < 0) fail("listen");
  fputs("ready\n", stderr);
  int fd = accept(listener, NULL, NULL);
  if (fd < 0) fail("accept");
  uint64_t bytes = 0, began = clock_us(CLOCK_MONOTONIC), last = 0;
  for (;;) {
    ssize_t n = read(fd, block, sizeof block);
    if (n <= 0) break;  // the end of the flow, or its reset: either way what was measured counts
    uint64_t now = clock_us(CLOCK_MONOTONIC);
    if (last != 0 && now - last >= GAP_US) keep(clock_us(CLOCK_REALTIME) - (now - last), now - last);
    last = now;
    bytes += (uint64_t)n;
  }
  char fields[128];
  snprintf(fields, sizeof fields, "\"bytes\":%llu,\"seconds\":%.3f", (unsigned long long)bytes,
           (double)(last > began ? last - began : 0) / 1e6);
  write_result(file, fields, "gaps");
}

static struct tcp_info look(int fd) {
  struct tcp_info info;
  socklen_t length = sizeof info;
  memset(&info, 0, sizeof info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0) fail("TCP_INFO");
  return info;
}

static void transmit(const char *address, const char *port, const char *file) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1) fail("address");
  if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
  uint64_t began = clock_us(CLOCK_MONOTONIC);
  uint32_t retransmits = 0;
  while (!stop) {
    if (send(fd, block, sizeof block, MSG_NOSIGNAL) < 0 && errno != EINTR) fail("send");
    uint32_t now = look(fd).tcpi_total_retrans;
    if (now != retransmits) keep(clock_us(CLOCK_REALTIME), now - retransmits);
    retransmits = now;
  }
  struct tcp_info info = look(fd);
  char fields[160];
  snprintf(fields, sizeof fields, "\"bytes\":%llu,\"seconds\":%.3f,\"retransmits\":%u",
           (unsigned long long)info.tcpi_bytes_acked, (double)(clock_us(CLOCK_MONOTONIC) - began) / 1e6,
           info.tcpi_total_retrans);
  write_result(file, fields, "retransmitted");
}

int main(int argc, char **argv) {
  // Without SA_RESTART: a blocked send returns.
  struct sigaction action = {.sa_handler = on_stop};
  sigaction(SIGTERM, &action, NULL);
  if (argc == 4 && strcmp(argv[1], "receive") == 0) receive(argv[2], argv[3]);
  else if (argc == 5 && strcmp(argv[1], "send") == 0) transmit(argv[2], argv[3], argv[4]);
  else {
    fputs("usage: bulk receive PORT FILE | bulk send ADDRESS PORT FILE\n", stderr);
    return 2;
  }
  return 0;
}
