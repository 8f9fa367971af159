// Measuring gear: sends numbered raw frames at a chosen rate, or receives them and checks the numbers.
//   frames send DEV DSTMAC SIZE RATE MILLISECONDS spin|sleep    RATE 0 = as fast as it goes; SIZE without the FCS
//   frames receive DEV MILLISECONDS                             says "ready" on stderr, ends at the deadline or on SIGTERM
// Both print one line of JSON. C because the gear must not be what is measured: a sender in the same process model as the
// slowest subject would hide every difference above its own rate.
//
// Frame: dst, src, EtherType 0x88B6 (IEEE local experimental 2; no protocol handler, so the receiving stack drops it at
// once), u32 magic, u64 number (host order), padding. PACKET_QDISC_BYPASS: no qdisc lock, no qdisc queue that would hide loss.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ETHERTYPE 0x88B6
#define MAGIC 0x53574246u
#define BATCH 32
#define LARGEST 1514
#define NUMBER_AT 18

static volatile sig_atomic_t stopped;

static void stop(int signal) {
  (void)signal;
  stopped = 1;
}

static void fail(const char *what) {
  fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_socket(const char *device, int protocol) {
  // Bound with protocol 0 the sender takes no copy of any frame: it costs the receive path nothing.
  int fd = socket(AF_PACKET, SOCK_RAW, 0);
  if (fd < 0) fail("socket(AF_PACKET)");
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol)};
  address.sll_ifindex = (int)if_nametoindex(device);
  if (address.sll_ifindex == 0) fail(device);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  return fd;
}

static void send_frames(char **argument) {
  const char *device = argument[0];
  unsigned dst[6];
  if (sscanf(argument[1], "%x:%x:%x:%x:%x:%x", dst, dst + 1, dst + 2, dst + 3, dst + 4, dst + 5) != 6) {
    errno = EINVAL;
    fail("destination address");
  }
  int size = atoi(argument[2]);
  uint64_t rate = strtoull(argument[3], NULL, 10);
  uint64_t duration = strtoull(argument[4], NULL, 10) * 1000000u;
  int sleeps = strcmp(argument[5], "sleep") == 0;
  if (size < NUMBER_AT + 8 || size > LARGEST || (sleeps && rate == 0)) {
    errno = EINVAL;
    fail("size or rate");
  }

  int fd = open_socket(device, 0);
  int one = 1, room = 1 << 22;
  if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0) fail("PACKET_QDISC_BYPASS");
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) < 0) fail("SO_SNDBUFFORCE");
  struct ifreq request = {0};
  strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  if (ioctl(fd, SIOCGIFHWADDR, &request) < 0) fail("SIOCGIFHWADDR");

  static unsigned char frames[BATCH][LARGEST];
  static struct iovec parts[BATCH];
  static struct mmsghdr messages[BATCH];
  for (int i = 0; i < BATCH; i++) {
    for (int byte = 0; byte < 6; byte++) frames[i][byte] = (unsigned char)dst[byte];
    memcpy(frames[i] + 6, request.ifr_hwaddr.sa_data, 6);
    frames[i][12] = ETHERTYPE >> 8;
    frames[i][13] = ETHERTYPE & 0xff;
    uint32_t magic = MAGIC;
    memcpy(frames[i] + 14, &magic, 4);
    parts[i] = (struct iovec){frames[i], (size_t)size};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
  }

  // Sleeping pace: a burst every 250 us, so that the sender leaves its core to others between bursts. Spinning pace: bursts
  // of at most 32, smaller at low rates so that no burst stands for more than about 100 us of the rate.
  uint64_t burst = BATCH;
  if (rate > 0 && sleeps) burst = rate / 4000 ? rate / 4000 : 1;
  if (rate > 0 && !sleeps && rate < 320000) burst = rate / 10000 ? rate / 10000 : 1;

  uint64_t number = 0, refused = 0;
  uint64_t start = now_ns(), end = start + duration, now = start;
  while (now < end && !stopped) {
    if (rate > 0) {
      uint64_t due = start + (uint64_t)((double)number * 1e9 / (double)rate);
      if (now < due) {
        if (sleeps) {
          struct timespec until = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
          clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        }
        now = now_ns();
        continue;
      }
    }
    for (uint64_t left = burst; left > 0;) {
      int count = left > BATCH ? BATCH : (int)left;
      for (int i = 0; i < count; i++) {
        uint64_t value = number + (uint64_t)i;
        memcpy(frames[i] + NUMBER_AT, &value, 8);
      }
      // A short return means that the frame after the last sent one was refused (a full queue): it counts as offered and
      // lost, as it would be on a wire, and the rest goes on behind it.
      for (int done = 0; done < count;) {
        int sent = sendmmsg(fd, messages + done, (unsigned)(count - done), 0);
        if (sent < 0) {
          if (errno == EINTR) continue;
          if (errno != ENOBUFS && errno != EAGAIN) fail("sendmmsg");
          refused++;
          sent = 1;
        }
        done += sent;
      }
      number += (uint64_t)count;
      left -= (uint64_t)count;
    }
    now = now_ns();
  }
  printf("{\"offered\":%llu,\"refused\":%llu,\"seconds\":%.9f}\n", (unsigned long long)number, (unsigned long long)refused,
         (double)(now - start) / 1e9);
}

static void receive_frames(char **argument) {
  uint64_t deadline = now_ns() + strtoull(argument[1], NULL, 10) * 1000000u;
  int fd = open_socket(argument[0], ETHERTYPE);
  int room = 1 << 26;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0) fail("SO_RCVBUFFORCE");
  struct timeval wait = {.tv_usec = 50000};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) < 0) fail("SO_RCVTIMEO");
  fputs("ready\n", stderr);

  static unsigned char frames[BATCH][2048];
  static struct iovec parts[BATCH];
  static struct mmsghdr messages[BATCH];
  for (int i = 0; i < BATCH; i++) {
    parts[i] = (struct iovec){frames[i], sizeof frames[i]};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
  }
  // In order means: each number above every one before. `late` counts the others: doubled or overtaken.
  uint64_t received = 0, next = 0, late = 0, foreign = 0;
  while (!stopped && now_ns() < deadline) {
    int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
    if (count < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      fail("recvmmsg");
    }
    for (int i = 0; i < count; i++) {
      uint32_t magic;
      uint64_t number;
      memcpy(&magic, frames[i] + 14, 4);
      memcpy(&number, frames[i] + NUMBER_AT, 8);
      if (messages[i].msg_len < NUMBER_AT + 8 || magic != MAGIC) {
        foreign++;
        continue;
      }
      received++;
      if (number < next) late++;
      else next = number + 1;
    }
  }
  printf("{\"received\":%llu,\"late\":%llu,\"foreign\":%llu,\"highest\":%llu}\n", (unsigned long long)received,
         (unsigned long long)late, (unsigned long long)foreign, (unsigned long long)next);
}

int main(int argc, char **argv) {
  struct sigaction action = {.sa_handler = stop};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  if (argc == 8 && strcmp(argv[1], "send") == 0) send_frames(argv + 2);
  else if (argc == 4 && strcmp(argv[1], "receive") == 0) receive_frames(argv + 2);
  else {
    fputs("usage: frames send DEV DSTMAC SIZE RATE MILLISECONDS spin|sleep\n       frames receive DEV MILLISECONDS\n", stderr);
    return 2;
  }
  return 0;
}
