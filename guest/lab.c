// Start, shared state and reports: reads the configuration, runs ring and streams in threads, prints progress twice
// a second and `done` once; then idles, so that the guest can be looked at.
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct config config;
struct journal_state journal_state;
struct ring_state ring_state;
struct send_state send_state[MAX_STREAMS];
struct receive_state receive_state[MAX_STREAMS];

static int console = STDOUT_FILENO;
static pthread_mutex_t console_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t monotonic_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

void sleep_us(uint64_t us) {
  struct timespec t = {.tv_sec = (time_t)(us / 1000000u), .tv_nsec = (long)(us % 1000000u) * 1000};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) continue;
}

void raise_to(counter *c, uint64_t value) {
  if (value > atomic_load(c)) atomic_store(c, value);
}

// FNV-1a: enough to notice damage, and short.
uint64_t digest(const void *bytes, size_t length) {
  const unsigned char *p = bytes;
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < length; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

static void write_line(const char *line, size_t length) {
  pthread_mutex_lock(&console_lock);
  while (length > 0) {
    ssize_t n = write(console, line, length);
    if (n < 0 && errno != EINTR && errno != EAGAIN) break;
    if (n > 0) {
      line += n;
      length -= (size_t)n;
    }
  }
  pthread_mutex_unlock(&console_lock);
}

void report(const char *format, ...) {
  char line[4096] = "@lab ";
  size_t length = 5;
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(line + length, sizeof line - length - 1, format, arguments);
  va_end(arguments);
  if (n < 0 || (size_t)n >= sizeof line - length - 1) return;
  length += (size_t)n;
  line[length++] = '\n';
  write_line(line, length);
}

static size_t put(char *into, size_t at, size_t room, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(into + at, room - at, format, arguments);
  va_end(arguments);
  return n < 0 || at + (size_t)n >= room ? room - 1 : at + (size_t)n;
}

static const char *truth(bool b) { return b ? "true" : "false"; }

static void report_state(const char *type) {
  char body[3800];
  size_t at = 0;
  const size_t room = sizeof body;
  const struct ring_state *r = &ring_state;
  at = put(body, at, room, "\"type\":\"%s\",\"node\":%u,\"ms\":%" PRIu64, type, config.node, monotonic_us() / 1000);
  if (config.nodes > 0)
    at = put(body, at, room,
             ",\"ring\":{\"hop\":%" PRIu64 ",\"hops\":%" PRIu64 ",\"value\":\"%016" PRIx64 "\",\"tokens\":%" PRIu64
             ",\"resets\":%" PRIu64 ",\"duplicated\":%" PRIu64 ",\"skipped\":%" PRIu64 ",\"corrupt\":%" PRIu64
             ",\"retransmits\":%" PRIu64 ",\"longestGapMs\":%.1f,\"finished\":%s,\"failed\":%s}",
             r->hop, config.hops, r->value_bits, r->tokens, r->resets, r->duplicated, r->skipped, r->corrupt,
             r->retransmits, (double)r->longest_gap_us / 1000.0, truth(r->finished), truth(r->failed));
  if (config.disk[0] != 0)
    at = put(body, at, room,
             ",\"disk\":{\"sequence\":%" PRIu64 ",\"verified\":%" PRIu64 ",\"mismatches\":%" PRIu64
             ",\"errors\":%" PRIu64 "}",
             journal_state.sequence, journal_state.verified, journal_state.mismatches, journal_state.errors);
  if (config.orders.role != NO_ORDERS)
    at = put(body, at, room, ",\"orders\":{\"sent\":%" PRIu64 ",\"served\":%" PRIu64 ",\"dropped\":%" PRId64 "}",
             orders_state.sent, orders_state.served, orders_state.dropped);
  at = put(body, at, room, ",\"send\":[");
  for (uint32_t i = 0; i < config.sends; i++) {
    const struct send_state *s = &send_state[i];
    at = put(body, at, room,
             "%s{\"stream\":%u,\"sent\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"refused\":%" PRIu64
             ",\"acknowledged\":%s,\"peerReceived\":%" PRIu64 "}",
             i > 0 ? "," : "", config.send[i].stream, s->sent, s->errors, s->refused, truth(s->acknowledged),
             s->peer_received);
  }
  at = put(body, at, room, "],\"receive\":[");
  for (uint32_t i = 0; i < config.receives; i++) {
    const struct receive_state *s = &receive_state[i];
    uint64_t received = s->received;
    uint64_t sent = s->ended ? s->total : s->highest;
    at = put(body, at, room,
             "%s{\"stream\":%u,\"received\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"doubled\":%" PRIu64
             ",\"reordered\":%" PRIu64 ",\"stale\":%" PRIu64 ",\"corrupt\":%" PRIu64 ",\"overruns\":%" PRIu64
             ",\"longestGapMs\":%.1f,\"ended\":%s}",
             i > 0 ? "," : "", config.receive[i].stream, received, sent > received ? sent - received : 0, s->doubled,
             s->reordered, s->stale, s->corrupt, s->overruns, (double)s->longest_gap_us / 1000.0, truth(s->ended));
  }
  put(body, at, room, "]");
  report("{%s}", body);
}

static bool all_done(void) {
  if (config.orders.role != NO_ORDERS) return false;
  if (config.nodes > 0 && !ring_state.finished && !ring_state.failed) return false;
  for (uint32_t i = 0; i < config.sends; i++)
    if (!send_state[i].acknowledged) return false;
  for (uint32_t i = 0; i < config.receives; i++)
    if (!receive_state[i].ended) return false;
  return true;
}

static void start(void *(*run)(void *), uintptr_t index) {
  pthread_t thread;
  int failure = pthread_create(&thread, NULL, run, (void *)index);
  if (failure != 0) {
    report("{\"type\":\"error\",\"what\":\"thread\",\"errno\":%d}", failure);
    exit(1);
  }
  pthread_detach(thread);
}

// lab [CONSOLE [CONFIGURATION]]: by default standard output and the kernel command line.
int main(int argc, char **argv) {
  if (argc > 1) {
    int fd = open(argv[1], O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) console = fd;
  }
  config_read(argc > 2 ? argv[2] : NULL);
  if (config.disk[0] != 0) journal_open();
  report("{\"type\":\"start\",\"node\":%u,\"ms\":%" PRIu64 "}", config.node, monotonic_us() / 1000);
  for (uint32_t i = 0; i < config.receives; i++) start(stream_receive, i);
  if (config.orders.role != NO_ORDERS) start(orders_run, 0);
  if (config.nodes > 0) start(ring_run, 0);
  for (uint32_t i = 0; i < config.sends; i++) start(stream_send, i);
  while (!all_done()) {
    sleep_us(500000);
    report_state("progress");
  }
  report_state("done");
  for (;;) pause();
}
