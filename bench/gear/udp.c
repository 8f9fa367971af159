// Measuring gear: UDP as fast as it goes.
//   udp receive PORT                                     says "ready" on stderr, counts until SIGTERM
//   udp send ADDRESS PORT SIZE SEGMENTS MILLISECONDS     SEGMENTS > 1: that many datagrams a call by UDP_SEGMENT (GSO)
// SIZE is the payload. Each prints one line of JSON: datagrams and bytes of payload, and for `send` seconds. With SEGMENTS 1
// calls are batched all the same (sendmmsg), so that GSO is compared with the next best thing.

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
#include <time.h>
#include <unistd.h>

#define BATCH 32
#define LARGEST 65507
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static volatile sig_atomic_t stopped;
static char data[BATCH][LARGEST];

static void stop(int signal) {
  (void)signal;
  stopped = 1;
}

static void fail(const char *what) {
  fprintf(stderr, "udp: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void receive(const char *port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 1 << 25, on = 1;
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0) fail("bind");
  fputs("ready\n", stderr);
  static char control[BATCH][CMSG_SPACE(sizeof(int))];
  struct iovec part[BATCH];
  struct mmsghdr message[BATCH];
  uint64_t datagrams = 0, bytes = 0;
  while (!stopped) {
    for (int i = 0; i < BATCH; i++) {
      part[i] = (struct iovec){data[i], LARGEST};
      message[i].msg_hdr = (struct msghdr){.msg_iov = &part[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
    }
    int count = recvmmsg(fd, message, BATCH, MSG_WAITFORONE, NULL);
    for (int i = 0; i < count; i++) {
      unsigned segment = message[i].msg_len;
      struct cmsghdr *told = CMSG_FIRSTHDR(&message[i].msg_hdr);
      if (told != NULL && told->cmsg_level == IPPROTO_UDP && told->cmsg_type == UDP_GRO) {
        int size;
        memcpy(&size, CMSG_DATA(told), sizeof size);
        if (size > 0) segment = (unsigned)size;
      }
      bytes += message[i].msg_len;
      datagrams += segment == 0 ? 1 : (message[i].msg_len + segment - 1) / segment;
    }
  }
  printf("{\"datagrams\":%llu,\"bytes\":%llu}\n", (unsigned long long)datagrams, (unsigned long long)bytes);
}

static void transmit(char **argument) {
  int size = atoi(argument[2]), segments = atoi(argument[3]);
  uint64_t duration = strtoull(argument[4], NULL, 10) * 1000000u;
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[1]))};
  if (size < 1 || segments < 1 || size * segments > LARGEST || inet_pton(AF_INET, argument[0], &to.sin_addr) != 1) {
    errno = EINVAL;
    fail("address, size or segments");
  }
  int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 1 << 22;
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  if (segments > 1 && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) < 0) fail("UDP_SEGMENT");
  if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
  struct iovec part[BATCH];
  struct mmsghdr message[BATCH];
  memset(message, 0, sizeof message);
  for (int i = 0; i < BATCH; i++) {
    part[i] = (struct iovec){data[0], (size_t)(size * segments)};
    message[i].msg_hdr = (struct msghdr){.msg_iov = &part[i], .msg_iovlen = 1};
  }
  uint64_t calls = 0, start = now_ns(), now = start;
  int batch = segments > 1 ? 1 : BATCH;
  while (!stopped && now - start < duration) {
    int sent = sendmmsg(fd, message, (unsigned)batch, 0);
    if (sent < 0 && errno != EINTR && errno != ENOBUFS && errno != ECONNREFUSED) fail("send");
    if (sent > 0) calls += (uint64_t)sent;
    now = now_ns();
  }
  uint64_t datagrams = calls * (uint64_t)segments;
  printf("{\"datagrams\":%llu,\"bytes\":%llu,\"seconds\":%.9f}\n", (unsigned long long)datagrams,
         (unsigned long long)(datagrams * (uint64_t)size), (double)(now - start) / 1e9);
}

int main(int argc, char **argv) {
  struct sigaction action = {.sa_handler = stop};
  sigaction(SIGTERM, &action, NULL);
  if (argc == 3 && strcmp(argv[1], "receive") == 0) receive(argv[2]);
  else if (argc == 7 && strcmp(argv[1], "send") == 0) transmit(argv + 2);
  else {
    fputs("usage: udp receive PORT | udp send ADDRESS PORT SIZE SEGMENTS MILLISECONDS\n", stderr);
    return 2;
  }
  return 0;
}
