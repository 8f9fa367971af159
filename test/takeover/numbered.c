// Numbered datagrams between two ends, and what became of them: `numbered receive PORT` and `numbered send ADDRESS PORT`, until
// SIGTERM; then a line of JSON. At SIGUSR1 the receiver writes one of what has come since the last one.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { MOST = 1 << 22, INTERVAL_NS = 2000000 };
static volatile sig_atomic_t over, asked;

static void end(int signal) {
  if (signal == SIGUSR1) asked = 1;
  else over = 1;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void ready(void) {
  puts("ready");
  fflush(stdout);
}

static int receive(int fd) {
  static unsigned char seen[MOST];
  unsigned long received = 0, doubled = 0, overtaken = 0;
  uint32_t highest = 0;
  double last = 0, longest = 0;
  // Since the last SIGUSR1. Of a gap, when it ended (CLOCK_MONOTONIC).
  struct {
    unsigned long received, doubled;
    uint32_t highest;
    double longest, end;
  } lately = {0};
  int size = 4 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  // A signal that comes just before it waits is noticed, too.
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_usec = 50000}, sizeof(struct timeval));
  ready();
  while (!over) {
    uint32_t number;
    if (asked) {
      asked = 0;
      printf("{\"lost\":%ld,\"doubled\":%lu,\"longestGap\":%.3f,\"gapEnd\":%.3f}\n",
             (long)(highest - lately.highest) - (long)lately.received, doubled - lately.doubled, lately.longest,
             lately.end);
      fflush(stdout);
      lately = (typeof(lately)){.doubled = doubled, .highest = highest};
    }
    if (recv(fd, &number, sizeof number, 0) < (ssize_t)sizeof number) continue;
    number = ntohl(number) % MOST;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double at = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    if (last != 0 && at - last > longest) longest = at - last;
    if (last != 0 && at - last > lately.longest) lately.longest = at - last, lately.end = at;
    last = at;
    if (seen[number]) doubled++;
    else seen[number] = 1, received++, lately.received++, overtaken += number < highest;
    if (number > highest) highest = number;
  }
  printf("{\"received\":%lu,\"doubled\":%lu,\"overtaken\":%lu,\"longestGap\":%.3f}\n", received, doubled, overtaken,
         longest);
  return 0;
}

static int transmit(int fd) {
  uint32_t message[8] = {0};
  unsigned long sent = 0;
  ready();
  while (!over) {
    message[0] = htonl(sent);
    // What the kernel refuses (its queue for a neighbour that it still asks for is full, say) was not sent.
    if (send(fd, message, sizeof message, 0) == (ssize_t)sizeof message) sent++;
    nanosleep(&(struct timespec){.tv_nsec = INTERVAL_NS}, NULL);
  }
  printf("{\"sent\":%lu}\n", sent);
  return 0;
}

int main(int argc, char **argv) {
  int receives = argc == 3 && strcmp(argv[1], "receive") == 0;
  if (!receives && (argc != 4 || strcmp(argv[1], "send") != 0)) return 2;
  struct sigaction action = {.sa_handler = end};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
  if (!receives && inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) fail("socket");
  if (receives) {
    if (bind(fd, (void *)&address, sizeof address) < 0) fail("bind");
    return receive(fd);
  }
  if (connect(fd, (void *)&address, sizeof address) < 0) fail("connect");
  return transmit(fd);
}
