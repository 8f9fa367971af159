// Numbered UDP streams. HELLO until the receiver answers (so that a peer which still boots costs nothing), then DATA
// 0, 1, 2, ... at a steady rate, then END with the total until the receiver answers with its counts. The receiver counts
// exactly, in bounded memory: one bit per number in a window behind the highest number seen.
#include "lab.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAGIC = 0x5354524d, WINDOW = 1 << 16, LONGEST = 1400, REPEAT_US = 200000, LINGER_US = 1000000 };
enum kind { HELLO = 1, HELLO_ACK, DATA, END, END_ACK };

struct datagram {
  uint32_t magic;
  uint32_t kind;
  uint32_t stream;
  uint32_t length;
  uint64_t number;  // DATA: its number; END: how many were sent; END_ACK: how many different ones came
  uint64_t digest;  // of the fields above
  unsigned char filling[LONGEST - 32];
};
enum { HEAD = offsetof(struct datagram, filling) };

static uint32_t length_of(enum kind kind, uint64_t number) {
  return kind == DATA ? HEAD + (uint32_t)(number * 97 % (LONGEST - HEAD)) : HEAD;
}

static void fill(struct datagram *d, enum kind kind, uint32_t stream, uint64_t number) {
  *d = (struct datagram){.magic = MAGIC, .kind = kind, .stream = stream, .length = length_of(kind, number),
                         .number = number};
  d->digest = digest(d, offsetof(struct datagram, digest));
  memset(d->filling, (int)(number & 0xff), d->length - HEAD);
}

static bool intact(const struct datagram *d, size_t length, uint32_t stream) {
  if (length < HEAD || d->magic != MAGIC || d->stream != stream || d->length != length) return false;
  if (d->length != length_of(d->kind, d->number)) return false;
  if (d->digest != digest(d, offsetof(struct datagram, digest))) return false;
  for (size_t i = 0; i < length - HEAD; i++)
    if (d->filling[i] != (d->number & 0xff)) return false;
  return true;
}

// Sends a request until its answer comes; returns the number that the answer carries.
static uint64_t ask(int fd, struct send_state *s, const struct datagram *request, enum kind answer) {
  for (;;) {
    if (send(fd, request, request->length, 0) < 0 && s->started) atomic_fetch_add(&s->refused, 1);
    const uint64_t until = monotonic_us() + REPEAT_US;
    for (uint64_t now = monotonic_us(); now < until; now = monotonic_us()) {
      struct pollfd p = {.fd = fd, .events = POLLIN};
      if (poll(&p, 1, (int)((until - now) / 1000) + 1) <= 0) continue;
      struct datagram d;
      ssize_t n = recv(fd, &d, sizeof d, MSG_DONTWAIT);
      if (n > 0 && intact(&d, (size_t)n, request->stream) && d.kind == answer) return d.number;
      if (n < 0) sleep_us(50000);  // an ICMP error: the peer's socket is not there yet
    }
  }
}

void *stream_send(void *index) {
  const struct send_spec *spec = &config.send[(uintptr_t)index];
  struct send_state *s = &send_state[(uintptr_t)index];
  struct datagram d;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = config.address};
  if (bind(fd, (const struct sockaddr *)&here, sizeof here) != 0) {
    report("{\"type\":\"error\",\"what\":\"stream_bind\",\"node\":%u,\"errno\":%d}", config.node, errno);
    return NULL;
  }
  while (connect(fd, (const struct sockaddr *)&spec->to, sizeof spec->to) != 0) sleep_us(100000);
  fill(&d, HELLO, spec->stream, 0);
  ask(fd, s, &d, HELLO_ACK);
  atomic_store(&s->started, true);
  const uint64_t step_us = 1000000u / spec->rate;
  uint64_t due = monotonic_us();
  uint64_t number = 0;
  while (spec->count > 0 ? number < spec->count : !ring_state.finished && !ring_state.failed) {
    fill(&d, DATA, spec->stream, number);
    // A number goes out once or is tried again: what the kernel refused was never on the wire.
    if (send(fd, &d, d.length, 0) == (ssize_t)d.length) atomic_store(&s->sent, ++number);
    else atomic_fetch_add(&s->errors, 1);
    due += step_us;
    const uint64_t now = monotonic_us();
    if (due > now) sleep_us(due - now);
    else if (now - due > 100000) due = now;  // after a long stop: go on at the rate, no burst to catch up
  }
  fill(&d, END, spec->stream, number);
  atomic_store(&s->peer_received, ask(fd, s, &d, END_ACK));
  atomic_store(&s->acknowledged, true);
  return NULL;
}

static uint64_t window[MAX_STREAMS][WINDOW / 64];

static bool bit(const uint64_t *w, uint64_t n) { return (w[n % WINDOW / 64] >> (n % 64) & 1) != 0; }
static void set_bit(uint64_t *w, uint64_t n) { w[n % WINDOW / 64] |= (uint64_t)1 << (n % 64); }
static void clear_bit(uint64_t *w, uint64_t n) { w[n % WINDOW / 64] &= ~((uint64_t)1 << (n % 64)); }

static void count(struct receive_state *s, uint64_t *w, uint64_t number) {
  const uint64_t highest = s->highest;  // one above the highest seen
  if (number >= highest) {
    if (number - highest >= WINDOW) memset(w, 0, WINDOW / 8);
    else
      for (uint64_t n = highest; n < number; n++) clear_bit(w, n);
    set_bit(w, number);
    atomic_store(&s->highest, number + 1);
    atomic_fetch_add(&s->received, 1);
  } else if (highest - number > WINDOW) {
    atomic_fetch_add(&s->stale, 1);
  } else if (bit(w, number)) {
    atomic_fetch_add(&s->doubled, 1);
  } else {
    set_bit(w, number);
    atomic_fetch_add(&s->reordered, 1);
    atomic_fetch_add(&s->received, 1);
  }
}

// SO_RXQ_OVFL: datagrams that this socket's own full buffer dropped. They are lost, but not on the network.
static void note_overruns(struct msghdr *m, struct receive_state *s) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
      uint32_t dropped;
      memcpy(&dropped, CMSG_DATA(c), sizeof dropped);
      atomic_store(&s->overruns, dropped);
    }
}

static void answer(int fd, const struct sockaddr_in *to, enum kind kind, uint32_t stream, uint64_t number) {
  struct datagram d;
  fill(&d, kind, stream, number);
  sendto(fd, &d, d.length, 0, (const struct sockaddr *)to, sizeof *to);
}

void *stream_receive(void *index) {
  const struct receive_spec *spec = &config.receive[(uintptr_t)index];
  struct receive_state *s = &receive_state[(uintptr_t)index];
  uint64_t *w = window[(uintptr_t)index];
  const int room = 4 << 20, on = 1;
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(spec->port), .sin_addr = config.address};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&here, sizeof here) != 0) {
    report("{\"type\":\"error\",\"what\":\"stream_bind\",\"node\":%u,\"errno\":%d}", config.node, errno);
    return NULL;
  }
  uint64_t last_us = 0, end_us = 0;
  for (;;) {
    // END may overtake DATA; what still comes within a second of it is counted. Answers to END go on for ever.
    if (end_us != 0 && monotonic_us() - end_us > LINGER_US) atomic_store(&s->ended, true);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 200) <= 0) continue;
    struct datagram d;
    struct sockaddr_in from;
    char control[64];
    struct iovec part = {.iov_base = &d, .iov_len = sizeof d};
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1,
                       .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    if (n < 0) continue;
    note_overruns(&m, s);
    if (!intact(&d, (size_t)n, spec->stream)) {
      atomic_fetch_add(&s->corrupt, 1);
      continue;
    }
    if (d.kind == HELLO) answer(fd, &from, HELLO_ACK, spec->stream, 0);
    if (d.kind == DATA) {
      const uint64_t now = monotonic_us();
      if (last_us != 0) raise_to(&s->longest_gap_us, now - last_us);
      last_us = now;
      atomic_store(&s->started, true);
      count(s, w, d.number);
    }
    if (d.kind == END) {
      atomic_store(&s->total, d.number);
      if (end_us == 0) end_us = monotonic_us();
      answer(fd, &from, END_ACK, spec->stream, s->received);
    }
  }
}
