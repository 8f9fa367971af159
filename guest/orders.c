// A shop with a fault that shows at times, for the demo of replays. A buyer sends each order to the shop and its
// payment to the bank, which tells the shop after a while. The shop drops an order whose payment comes first: it looks for the
// order, does not find it, and forgets the payment. Whether that happens is a matter of microseconds.
#include "lab.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OPEN_ORDERS = 1024, WARM_UP_US = 500000, PACE_US = 20000 };
// How long an order and the bank's word of its payment take at most: now and then the latter is the quicker one.
enum { ORDER_US = 20000, BANK_LEAST_US = 15000, BANK_MORE_US = 20000 };

struct orders_state orders_state = {.dropped = -1};

static int udp(uint16_t port) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = config.address};
  if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own) < 0) {
    report("{\"type\":\"error\",\"what\":\"orders\"}");
    exit(1);
  }
  return fd;
}

// Not the kernel's random numbers: a guest that has just booted waits for those.
static uint64_t up_to(uint64_t us) {
  static uint64_t state;
  if (state == 0) state = monotonic_us() ^ ((uint64_t)config.address.s_addr << 32) ^ 1;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state % us;
}

static void say(int fd, const struct sockaddr_in *to, const char *word, uint64_t number) {
  char text[32];
  int length = snprintf(text, sizeof text, "%s %" PRIu64, word, number);
  sendto(fd, text, (size_t)length, 0, (const struct sockaddr *)to, sizeof *to);
}

// What a datagram says; false: nothing that is known here.
static bool hear(int fd, char *word, uint64_t *number) {
  char text[64];
  ssize_t n = recv(fd, text, sizeof text - 1, 0);
  if (n <= 0) return false;
  text[n] = 0;
  return sscanf(text, "%15s %" SCNu64, word, number) == 2;
}

// All know one another before the first order: no ARP delays one.
static void buy(void) {
  int fd = udp(0);
  say(fd, &config.orders.bank, "HELLO", 0);
  say(fd, &config.orders.shop, "HELLO", 0);
  sleep_us(WARM_UP_US);
  for (uint64_t number = 0;; number++) {
    say(fd, &config.orders.bank, "PAY", number);
    sleep_us(up_to(ORDER_US));
    say(fd, &config.orders.shop, "ORDER", number);
    atomic_fetch_add(&orders_state.sent, 1);
    sleep_us(PACE_US);
  }
}

static void bank(void) {
  int fd = udp(config.orders.port);
  for (;;) {
    char word[16];
    uint64_t number;
    if (!hear(fd, word, &number)) continue;
    if (strcmp(word, "HELLO") == 0) say(fd, &config.orders.shop, "HELLO", 0);
    if (strcmp(word, "PAY") != 0) continue;
    sleep_us(BANK_LEAST_US + up_to(BANK_MORE_US));
    say(fd, &config.orders.shop, "PAID", number);
  }
}

static void sell(void) {
  static bool open[OPEN_ORDERS];
  int fd = udp(config.orders.port);
  for (;;) {
    char word[16];
    uint64_t number;
    if (!hear(fd, word, &number)) continue;
    bool *order = &open[number % OPEN_ORDERS];
    if (strcmp(word, "ORDER") == 0) *order = true;
    else if (strcmp(word, "PAID") == 0 && *order) {
      *order = false;
      atomic_fetch_add(&orders_state.served, 1);
    } else if (strcmp(word, "PAID") == 0 && orders_state.dropped < 0)
      atomic_store(&orders_state.dropped, (int64_t)number);
  }
}

void *orders_run(void *unused) {
  (void)unused;
  if (config.orders.role == BUYER) buy();
  else if (config.orders.role == BANK) bank();
  else sell();
  return NULL;
}
