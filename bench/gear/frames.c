// Measuring gear: sends numbered raw frames at a chosen rate, or receives them and checks the numbers.
//   frames send DEV DSTMAC SIZE RATE MILLISECONDS spin|sleep    RATE 0 = as fast as it goes; SIZE without the FCS
//   frames receive DEV MILLISECONDS                             says "ready" on stderr, ends at the deadline or on SIGTERM
// Both print one line of JSON. C because the gear must not be what is measured: a sender in the same process model as the
// slowest subject would hide every difference above its own rate.
//
// Frame: dst, src, EtherType 0x88B6 (IEEE local experimental 2; no protocol handler, so the receiving stack drops it at
// once), u32 magic, u64 number (host order), padding. Sent from a
// ring (PACKET_TX_RING), which costs the sender a fifth less per frame than sendmmsg: what a sender spends, every subject's
// figures lack. PACKET_QDISC_BYPASS: no qdisc lock, no qdisc queue that would hide loss.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ETHERTYPE 0x88B6
#define MAGIC 0x53574246u
#define BATCH 32
#define LARGEST 1514
#define NUMBER_AT 18
#define SLOTS 64
#define SLOT 2048
/** Where the virtio-net header lies in a slot; the frame follows. */
#define DATA_AT (TPACKET2_HDRLEN - sizeof(struct sockaddr_ll))

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
  int one = 1, room = 1 << 22, version = TPACKET_V2;
  // With a virtio-net header whose hdr_len is the whole frame the kernel copies the frame into the head of its buffer; else
  // it would map the ring's page, and copy that page where the device crosses into another namespace.
  if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0) fail("PACKET_VNET_HDR");
  if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0) fail("PACKET_QDISC_BYPASS");
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) < 0) fail("SO_SNDBUFFORCE");
  if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0) fail("PACKET_VERSION");
  struct tpacket_req ring = {.tp_block_size = SLOTS * SLOT, .tp_block_nr = 1, .tp_frame_size = SLOT, .tp_frame_nr = SLOTS};
  if (setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof ring) < 0) fail("PACKET_TX_RING");
  unsigned char *slots = mmap(NULL, SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (slots == MAP_FAILED) fail("mmap of the ring");
  struct ifreq request = {0};
  strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  if (ioctl(fd, SIOCGIFHWADDR, &request) < 0) fail("SIOCGIFHWADDR");

  for (int i = 0; i < SLOTS; i++) {
    struct tpacket2_hdr *header = (struct tpacket2_hdr *)(slots + i * SLOT);
    header->tp_len = (unsigned)(sizeof(struct virtio_net_hdr) + size);
    struct virtio_net_hdr *offload = (struct virtio_net_hdr *)((unsigned char *)header + DATA_AT);
    *offload = (struct virtio_net_hdr){.hdr_len = (uint16_t)size};
    unsigned char *frame = (unsigned char *)(offload + 1);
    for (int byte = 0; byte < 6; byte++) frame[byte] = (unsigned char)dst[byte];
    memcpy(frame + 6, request.ifr_hwaddr.sa_data, 6);
    frame[12] = ETHERTYPE >> 8;
    frame[13] = ETHERTYPE & 0xff;
    uint32_t magic = MAGIC;
    memcpy(frame + 14, &magic, 4);
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
      unsigned count = left > BATCH ? BATCH : (unsigned)left;
      struct tpacket2_hdr *last = NULL;
      for (unsigned i = 0; i < count; i++) {
        last = (struct tpacket2_hdr *)(slots + (number + i) % SLOTS * SLOT);
        // Still on its way (a device that queues what it has been given): a sender waits, as one with a full buffer does.
        while (__atomic_load_n(&last->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE && now_ns() < end) sched_yield();
        uint64_t value = number + i;
        memcpy((unsigned char *)last + DATA_AT + sizeof(struct virtio_net_hdr) + NUMBER_AT, &value, 8);
        __atomic_store_n(&last->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
      }
      // A frame that a full queue refuses stays in its slot and goes out again, as the next frame: it has been offered
      // twice, and lost once, as it would be on a wire.
      while (__atomic_load_n(&last->tp_status, __ATOMIC_ACQUIRE) == TP_STATUS_SEND_REQUEST && !stopped) {
        if (send(fd, NULL, 0, MSG_DONTWAIT) >= 0 || errno == EINTR) continue;
        if (errno != ENOBUFS && errno != EAGAIN) fail("send");
        refused++;
        if (now_ns() >= end) break;
      }
      number += count;
      left -= count;
    }
    now = now_ns();
  }
  printf("{\"offered\":%llu,\"refused\":%llu,\"seconds\":%.9f}\n", (unsigned long long)(number + refused),
         (unsigned long long)refused, (double)(now - start) / 1e9);
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
