// A baseline, not a product: a switch built as VNsnap's is described (bench/vnsnap/README.md says what was assumed).
//   vnsnap SPIN_US ADDRESS UDPPORT [PEER…] -- DEV…
// ADDRESS and UDPPORT: this host's end of the tunnels; PEER: the other hosts' ADDRESS. DEV: one device per virtual machine.
// Says "ready" on stderr, takes commands on stdin, a line each, and answers each with a line on stdout.
// SPIN_US: how long it asks again before it waits. VNsnap's waited at once, as far as its papers tell; 0 does that.
//
// A frame that a machine's device gives is learned, and goes to that machine's device which has its destination, or in one
// UDP datagram, behind HEADER bytes, to the host that has it. Unknown ones go everywhere. Each frame has the color of the
// machine that sent it; a frame of the new color that meets a machine of the old one is early: it is dropped.
// Commands: `begin COLOR`: a snapshot in which machines get that color; `flip DEV|all`: this machine
// has been saved up to here; `end`: all have; `stats`.
// Kinder than what it stands for: receive rings for devices, sendmmsg and recvmmsg in batches of up to 64, no copy of a frame
// inside the switch.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_PORTS 256
#define MOST_PEERS 16
#define MOST (MOST_PORTS + MOST_PEERS)
#define BATCH 64
#define SLOT 2048
// As many as snapswitch has.
#define SLOTS 2048
#define TABLE 8192
#define HEADER 4
#define MAGIC 0xc5
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

struct output {
  int fd;
  unsigned count;
  struct mmsghdr message[BATCH];
  struct iovec part[BATCH][2];
};

// Outputs 0 to ports - 1 are devices, those after them tunnels.
static struct output output[MOST];
static struct {
  char name[IFNAMSIZ];
  unsigned char *ring;
  unsigned slot;
  uint8_t color;
} port[MOST_PORTS];
static unsigned ports, peers;
static struct {
  uint64_t mac;
  int where;
} table[TABLE];
static struct sockaddr_in peer_address[MOST_PEERS];
// A tunnel's header for each color: MAGIC, color, reserved.
static unsigned char header[2][HEADER] = {{MAGIC, 0}, {MAGIC, 1}};
static int snapshot, new_color;
static uint64_t forwarded, tunnelled, early, refused;

static void fail(const char *what) {
  fprintf(stderr, "vnsnap: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint64_t mac_at(const unsigned char *at) {
  uint64_t mac = 0;
  memcpy(&mac, at, 6);
  return mac;
}

static unsigned slot_of(uint64_t mac) {
  return (unsigned)((mac * 0x9e3779b97f4a7c15u) >> 51) % TABLE;
}

static void learn(uint64_t mac, int where) {
  unsigned at = slot_of(mac);
  // Linear probing, a few steps: a full neighbourhood forgets its first, which then floods.
  for (unsigned i = 0; i < 8; i++) {
    unsigned next = (at + i) % TABLE;
    if (table[next].mac != mac && table[next].mac != 0) continue;
    table[next].mac = mac;
    table[next].where = where;
    return;
  }
  table[at].mac = mac;
  table[at].where = where;
}

static int look_up(uint64_t mac) {
  unsigned at = slot_of(mac);
  for (unsigned i = 0; i < 8; i++) {
    unsigned next = (at + i) % TABLE;
    if (table[next].mac == mac) return table[next].where;
  }
  return -1;
}

static void flush(int where) {
  struct output *to = &output[where];
  for (unsigned done = 0; done < to->count;) {
    int sent = sendmmsg(to->fd, to->message + done, to->count - done, MSG_DONTWAIT);
    if (sent > 0) {
      done += (unsigned)sent;
      continue;
    }
    if (errno == EINTR) continue;
    // What a full queue, or a device that is down, refuses is lost, as on any switch.
    refused++;
    done++;
  }
  to->count = 0;
}

static void put(int where, const unsigned char *frame, unsigned length, int color) {
  struct output *to = &output[where];
  int tunnel = where >= (int)ports;
  if (!tunnel && snapshot && color == new_color && port[where].color != new_color) {
    early++;
    return;
  }
  if (to->count == BATCH) flush(where);
  struct iovec *part = to->part[to->count];
  part[0] = (struct iovec){header[color], HEADER};
  part[1] = (struct iovec){(void *)frame, length};
  struct msghdr *message = &to->message[to->count++].msg_hdr;
  message->msg_iov = tunnel ? part : part + 1;
  message->msg_iovlen = tunnel ? 2 : 1;
  if (tunnel) tunnelled++;
  else forwarded++;
}

static void forward(int from, const unsigned char *frame, unsigned length, int color) {
  if (length < ETH_HLEN) return;
  if (!(frame[6] & 1)) learn(mac_at(frame + 6), from);
  int to = frame[0] & 1 ? -1 : look_up(mac_at(frame));
  if (to == from) return;
  if (to >= 0) {
    put(to, frame, length, color);
    return;
  }
  // Every pair of hosts has a tunnel: what came out of one goes into none.
  int end = from >= (int)ports ? (int)ports : (int)(ports + peers);
  for (int i = 0; i < end; i++)
    if (i != from) put(i, frame, length, color);
}

static void flush_all(void) {
  for (unsigned i = 0; i < ports + peers; i++)
    if (output[i].count > 0) flush((int)i);
}

// The kernel takes a VLAN tag out of the frame and hands it over beside it: back in, into the room before the frame.
static unsigned char *with_tag(const struct tpacket2_hdr *slot, unsigned char *frame, unsigned *length) {
  if (!(slot->tp_status & TP_STATUS_VLAN_VALID)) return frame;
  memmove(frame - 4, frame, 12);
  uint16_t tag[2] = {htons(slot->tp_status & TP_STATUS_VLAN_TPID_VALID ? slot->tp_vlan_tpid : 0x8100), htons(slot->tp_vlan_tci)};
  memcpy(frame + 8, tag, 4);
  *length += 4;
  return frame - 4;
}

static unsigned from_port(unsigned index) {
  unsigned taken = 0, first = port[index].slot;
  for (; taken < BATCH; taken++) {
    struct tpacket2_hdr *slot = (struct tpacket2_hdr *)(port[index].ring + (size_t)(first + taken) % SLOTS * SLOT);
    if (!(__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) break;
    unsigned length = slot->tp_snaplen;
    unsigned char *frame = with_tag(slot, (unsigned char *)slot + slot->tp_mac, &length);
    if (slot->tp_len == slot->tp_snaplen) forward((int)index, frame, length, port[index].color);
  }
  if (taken == 0) return 0;
  // Sent before the slots are given back: what is sent lies in them.
  flush_all();
  for (unsigned i = 0; i < taken; i++) {
    struct tpacket2_hdr *slot = (struct tpacket2_hdr *)(port[index].ring + (size_t)(first + i) % SLOTS * SLOT);
    __atomic_store_n(&slot->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  }
  port[index].slot = (first + taken) % SLOTS;
  return taken;
}

static unsigned from_tunnel(unsigned peer) {
  static unsigned char data[BATCH][SLOT];
  static struct iovec part[BATCH];
  static struct mmsghdr message[BATCH];
  for (unsigned i = 0; i < BATCH; i++) {
    part[i] = (struct iovec){data[i], SLOT};
    message[i].msg_hdr = (struct msghdr){.msg_iov = &part[i], .msg_iovlen = 1};
  }
  int count = recvmmsg(output[ports + peer].fd, message, BATCH, MSG_DONTWAIT, NULL);
  for (int i = 0; i < count; i++)
    if (message[i].msg_len > HEADER && data[i][0] == MAGIC)
      forward((int)(ports + peer), data[i] + HEADER, message[i].msg_len - HEADER, data[i][1] & 1);
  if (count > 0) flush_all();
  return count > 0 ? (unsigned)count : 0;
}

static void open_port(const char *name) {
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), on = 1, version = TPACKET_V2, room = 1 << 22;
  if (fd < 0) fail("socket(AF_PACKET)");
  // Devices of a machine that boots appear a moment later.
  unsigned device = 0;
  for (int i = 0; i < 100 && (device = if_nametoindex(name)) == 0; i++) usleep(50000);
  if (device == 0) fail(name);
  struct tpacket_req ring = {.tp_block_size = SLOT * 32, .tp_block_nr = SLOTS / 32, .tp_frame_size = SLOT, .tp_frame_nr = SLOTS};
  unsigned reserve = 8;  // for a tag that goes back in
  setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0) fail("PACKET_VERSION");
  if (setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof reserve) < 0) fail("PACKET_RESERVE");
  if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) < 0) fail("PACKET_RX_RING");
  port[ports].ring = mmap(NULL, SLOT * SLOTS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (port[ports].ring == MAP_FAILED) fail("mmap of a ring");
  struct sockaddr_ll here = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)device};
  if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0) fail("bind to a device");
  // Segments that the device merges on reception are no frames of one MTU any more. Not every device can, or needs it.
  struct ethtool_value off = {.cmd = ETHTOOL_SGRO};
  struct ifreq request = {.ifr_data = (void *)&off};
  snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
  ioctl(fd, SIOCETHTOOL, &request);
  struct packet_mreq all = {.mr_ifindex = (int)device, .mr_type = PACKET_MR_PROMISC};
  if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) < 0) fail("promiscuous mode");
  snprintf(port[ports].name, IFNAMSIZ, "%s", name);
  output[ports++].fd = fd;
}

static void open_tunnel(unsigned index, struct sockaddr_in here) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = 1 << 23, on = 1;
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0) fail("bind of a tunnel");
  if (connect(fd, (struct sockaddr *)&peer_address[index], sizeof peer_address[index]) < 0) fail("connect of a tunnel");
  output[ports + index].fd = fd;
}

static void obey(char *line, char *answer, size_t room) {
  char name[IFNAMSIZ];
  int color, found = 0;
  if (sscanf(line, "begin %d", &color) == 1 && (color == 0 || color == 1)) {
    snapshot = 1;
    new_color = color;
  } else if (sscanf(line, "flip %15s", name) == 1) {
    for (unsigned i = 0; i < ports; i++)
      if (strcmp(name, "all") == 0 || strcmp(name, port[i].name) == 0) {
        port[i].color = (uint8_t)new_color;
        found = 1;
      }
    if (!found) {
      snprintf(answer, room, "no device %s\n", name);
      return;
    }
  } else if (strncmp(line, "end", 3) == 0) {
    snapshot = 0;
  } else if (strncmp(line, "stats", 5) == 0) {
    snprintf(answer, room, "{\"forwarded\":%llu,\"tunnelled\":%llu,\"early\":%llu,\"refused\":%llu}\n", (unsigned long long)forwarded,
             (unsigned long long)tunnelled, (unsigned long long)early, (unsigned long long)refused);
    return;
  } else {
    snprintf(answer, room, "what?\n");
    return;
  }
  snprintf(answer, room, "ok\n");
}

static void control(struct pollfd *console) {
  static char line[512];
  static size_t have;
  ssize_t size = read(0, line + have, sizeof line - 1 - have);
  if (size <= 0) {
    // Nobody is left who could command: it forwards on.
    console->fd = -1;
    return;
  }
  have += (size_t)size;
  line[have] = 0;
  for (char *end; (end = strchr(line, '\n')) != NULL;) {
    char answer[256];
    *end = 0;
    obey(line, answer, sizeof answer);
    ssize_t told = write(1, answer, strlen(answer));
    (void)told;
    have -= (size_t)(end + 1 - line);
    memmove(line, end + 1, have + 1);
  }
  if (have == sizeof line - 1) have = 0;
}

int main(int argc, char **argv) {
  int dashes = 4;
  while (dashes < argc && strcmp(argv[dashes], "--") != 0) dashes++;
  if (argc < 6 || dashes >= argc - 1 || argc - dashes - 1 > MOST_PORTS || dashes - 4 > MOST_PEERS) {
    fputs("usage: vnsnap SPIN_US ADDRESS UDPPORT [PEER...] -- DEV...\n", stderr);
    return 2;
  }
  uint64_t spin = strtoull(argv[1], NULL, 10);
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
  if (inet_pton(AF_INET, argv[2], &here.sin_addr) != 1) {
    errno = EINVAL;
    fail(argv[2]);
  }
  for (int i = dashes + 1; i < argc; i++) open_port(argv[i]);
  for (int i = 4; i < dashes; i++) {
    peer_address[peers] = here;
    if (inet_pton(AF_INET, argv[i], &peer_address[peers].sin_addr) != 1) {
      errno = EINVAL;
      fail(argv[i]);
    }
    open_tunnel(peers++, here);
  }
  struct pollfd wait[MOST + 1];
  for (unsigned i = 0; i < ports + peers; i++) wait[i] = (struct pollfd){.fd = output[i].fd, .events = POLLIN};
  wait[ports + peers] = (struct pollfd){.fd = 0, .events = POLLIN};
  fputs("ready\n", stderr);
  uint64_t last = now_us();
  for (unsigned turn = 0;; turn++) {
    unsigned taken = 0;
    for (unsigned i = 0; i < ports; i++) taken += from_port(i);
    for (unsigned i = 0; i < peers; i++) taken += from_tunnel(i);
    uint64_t now = spin > 0 ? now_us() : 0;
    if (taken > 0) last = now;
    // Commands are looked for now and then under load, too.
    int idle = taken == 0 && (spin == 0 || now - last >= spin);
    if (!idle && turn % 64 != 0) continue;
    if (poll(wait, ports + peers + 1, idle ? -1 : 0) < 0 && errno != EINTR) fail("poll");
    if (wait[ports + peers].revents & POLLIN) control(&wait[ports + peers]);
    // Such as ENETDOWN, or a port that is unreachable for a moment: reading it clears it.
    for (unsigned i = 0; i < ports + peers; i++) {
      int error;
      socklen_t size = sizeof error;
      if (wait[i].revents & POLLERR) getsockopt(output[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
}
