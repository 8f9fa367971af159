// The token ring of the UnaCloud global snapshot study (SBAC-PAD 2017): one numbered token goes round over TCP; each
// hop multiplies floats a hundred times and adds to a running result that the token carries. Token n is node n mod N's;
// after the last hop the numbers go on for one round, so that every node learns the result.
#include "lab.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RING_PORT = 7000, TOKEN_MAGIC = 0x52494e47, PATIENCE_MS = 600000 };

struct token {
  uint32_t magic;
  uint32_t node;  // the sender's
  uint64_t number;
  uint64_t value_bits;
  uint64_t digest;  // of the fields above
};

double hop_result(double value, uint64_t number, uint32_t node) {
  double x = 1.0 + (double)(number % 1009) / 1009.0;
  for (int i = 0; i < HOP_MULTIPLICATIONS; i++) x *= (i & 1) != 0 ? 1.0000019 : 0.9999983;
  return value + x * (double)(node + 1);
}

static double from_bits(uint64_t bits) {
  double d;
  memcpy(&d, &bits, sizeof d);
  return d;
}

static uint64_t to_bits(double d) {
  uint64_t bits;
  memcpy(&bits, &d, sizeof bits);
  return bits;
}

static void set_options(int fd) {
  const int on = 1;
  const unsigned patience = PATIENCE_MS;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience);
}

static int listen_here(void) {
  const int on = 1;
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(RING_PORT), .sin_addr = config.address};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&here, sizeof here) != 0 || listen(fd, 4) != 0) return -1;
  return fd;
}

// Peers boot at their own pace: until the first success every failure means "not yet".
static int connect_next(void) {
  struct sockaddr_in next = {.sin_family = AF_INET, .sin_port = htons(RING_PORT)};
  next.sin_addr = config.ring[(config.node + 1) % config.nodes];
  for (;;) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    set_options(fd);
    if (connect(fd, (struct sockaddr *)&next, sizeof next) == 0) return fd;
    close(fd);
    sleep_us(100000);
  }
}

static void *lost(const char *side, ssize_t result) {
  const int error = result == 0 ? 0 : errno;
  atomic_fetch_add(&ring_state.resets, 1);
  atomic_store(&ring_state.failed, true);
  report("{\"type\":\"error\",\"what\":\"ring_reset\",\"node\":%u,\"side\":\"%s\",\"errno\":%d,\"text\":\"%s\"}",
         config.node, side, error, error == 0 ? "closed by peer" : strerror(error));
  return NULL;
}

static ssize_t read_token(int fd, struct token *t) {
  size_t have = 0;
  while (have < sizeof *t) {
    ssize_t n = recv(fd, (char *)t + have, sizeof *t - have, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n;
    have += (size_t)n;
  }
  return 1;
}

static ssize_t write_token(int fd, uint64_t number, uint64_t value_bits) {
  struct token t = {.magic = TOKEN_MAGIC, .node = config.node, .number = number, .value_bits = value_bits};
  t.digest = digest(&t, offsetof(struct token, digest));
  size_t done = 0;
  while (done < sizeof t) {
    ssize_t n = send(fd, (char *)&t + done, sizeof t - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return n;
    done += (size_t)n;
  }
  return 1;
}

static void note_retransmits(int fd) {
  struct tcp_info info;
  socklen_t length = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0)
    atomic_store(&ring_state.retransmits, info.tcpi_total_retrans);
}

// True when the token is good to work on. A doubled one is dropped: two tokens in one ring would never end.
static bool judge(const struct token *t, uint64_t expected) {
  const char *what = NULL;
  const uint32_t previous = (config.node + config.nodes - 1) % config.nodes;
  if (t->magic != TOKEN_MAGIC || t->node != previous || t->digest != digest(t, offsetof(struct token, digest))) {
    atomic_fetch_add(&ring_state.corrupt, 1);
    what = "token_corrupt";
  } else if (t->number < expected) {
    atomic_fetch_add(&ring_state.duplicated, 1);
    what = "token_duplicated";
  } else if (t->number > expected) {
    atomic_fetch_add(&ring_state.skipped, 1);
    what = "token_skipped";
  }
  if (what != NULL)
    report("{\"type\":\"error\",\"what\":\"%s\",\"node\":%u,\"number\":%" PRIu64 ",\"expected\":%" PRIu64 "}", what,
           config.node, t->number, expected);
  return what == NULL || t->number > expected;
}

void *ring_run(void *unused) {
  (void)unused;
  int listener = listen_here();
  if (listener < 0) return lost("listen", -1);
  int next = connect_next();
  int previous = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (previous < 0) return lost("accept", -1);
  set_options(previous);
  uint64_t expected = config.node;
  uint64_t own = 0;
  uint64_t last_us = 0;
  const uint64_t end = config.hops + config.nodes - 1;  // the last number of the round that spreads the result
  struct token t = {.number = 0, .value_bits = to_bits(0.0)};
  for (bool born_here = config.node == 0;; born_here = false) {
    if (!born_here) {
      ssize_t n = read_token(previous, &t);
      if (n <= 0) return lost("previous", n);
      const uint64_t now = monotonic_us();
      if (last_us != 0) raise_to(&ring_state.longest_gap_us, now - last_us);
      last_us = now;
      if (!judge(&t, expected)) continue;
    }
    expected = t.number + config.nodes;
    if (t.number < config.hops) {
      t.value_bits = to_bits(hop_result(from_bits(t.value_bits), t.number, config.node));
      if (++own % config.journal_every == 0 && config.disk[0] != 0) journal_append(t.number, t.value_bits);
      if (config.hop_delay_us > 0) sleep_us(config.hop_delay_us);
    }
    atomic_store(&ring_state.value_bits, t.value_bits);
    atomic_store(&ring_state.hop, t.number);
    atomic_fetch_add(&ring_state.tokens, 1);
    if (t.number < end) {
      ssize_t n = write_token(next, t.number + 1, t.value_bits);
      if (n < 0) return lost("next", n);
    }
    if ((own & 15) == 0) note_retransmits(next);
    if (t.number >= config.hops) break;
  }
  note_retransmits(next);
  if (config.disk[0] != 0) journal_verify();
  atomic_store(&ring_state.finished, true);
  return NULL;  // the connections stay open: their end would look like a reset to a slower peer
}
