// Traffic that node cannot make, and whose content is known beforehand. Compiled by machine.ts, run in the Debian machine.
//   traffic listen ADDRESS PORT [auth] [udp]     one SCTP association; prints how many messages came right, and ends
//   traffic send ADDRESS PORT COUNT [auth] [udp]
//   traffic collect ADDRESS PORT COUNT           UDP datagrams; prints how many came, of which lengths, right or wrong
//   traffic segments ADDRESS PORT COUNT SIZE     as many buffers, each of which the kernel is to send as datagrams of SIZE bytes
// Message i is 1 to 60,000 bytes long, as i says, and filled by i: runs of small ones, which are bundled, and large ones, which
// are cut. auth: every DATA chunk is authenticated (net.sctp.auth_enable). udp: in UDP, port 9899 (RFC 6951).

#include <arpa/inet.h>
#include <linux/sctp.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX = 60000 };
static unsigned char message[MAX], wanted[MAX];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static size_t fill(unsigned char *to, unsigned i) {
  static const size_t lengths[] = {60000, 40, 1, 200, 9000, 33, 47, 700, 64, 128, 3001, 20000};
  size_t length = lengths[i % (sizeof lengths / sizeof *lengths)];
  for (size_t k = 0; k < length; k++) to[k] = (unsigned char)(i * 31 + k * 7 + (k >> 8));
  return length;
}

// The last datagram of a buffer is shorter than the others.
static const size_t REST = 17;

static int segments(const struct sockaddr *to, socklen_t length, unsigned count, unsigned size) {
  int fd = socket(to->sa_family, SOCK_DGRAM, 0);
  if (fd < 0 || connect(fd, to, length) < 0) fail("connect");
  if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &(int){size}, sizeof(int)) < 0) fail("UDP_SEGMENT");
  size_t bytes = 30 * size + REST;
  for (unsigned i = 0; i < count; i++) {
    for (size_t k = 0; k < bytes; k++) message[k] = (unsigned char)(size + k / size * 5);
    if (send(fd, message, bytes, 0) != (ssize_t)bytes) fail("send");
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
  }
  return 0;
}

static int collect(const struct sockaddr *at, socklen_t length, unsigned count) {
  int fd = socket(at->sa_family, SOCK_DGRAM, 0);
  int size = 16 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  if (fd < 0 || bind(fd, at, length) < 0) fail("bind");
  puts("listening");
  fflush(stdout);
  static unsigned lengths[MAX];
  unsigned right = 0, wrong = 0;
  struct pollfd waits = {.fd = fd, .events = POLLIN};
  while (right + wrong < count && poll(&waits, 1, 20000) > 0) {
    ssize_t got = recv(fd, message, sizeof message, MSG_TRUNC);
    int same = got > 0 && got < MAX;
    for (ssize_t k = 1; same && k < got; k++) same = message[k] == message[0];
    if (same) right++, lengths[got]++;
    else wrong++;
  }
  printf("%u right, %u wrong", right, wrong);
  for (int k = 0; k < MAX; k++)
    if (lengths[k] > 0) printf(", %u of %d", lengths[k], k);
  puts("");
  return 0;
}

static int has(int argc, char **argv, const char *word) {
  for (int i = 4; i < argc; i++)
    if (strcmp(argv[i], word) == 0) return 1;
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  struct sockaddr_storage address = {0};
  struct sockaddr_in *four = (void *)&address;
  struct sockaddr_in6 *six = (void *)&address;
  socklen_t length = sizeof *four;
  if (inet_pton(AF_INET, argv[2], &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(atoi(argv[3]));
  } else {
    if (inet_pton(AF_INET6, argv[2], &six->sin6_addr) != 1) return 2;
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(atoi(argv[3]));
    length = sizeof *six;
  }
  if (strcmp(argv[1], "collect") == 0) return collect((void *)&address, length, atoi(argv[4]));
  if (strcmp(argv[1], "segments") == 0) return segments((void *)&address, length, atoi(argv[4]), atoi(argv[5]));
  int fd = socket(address.ss_family, SOCK_STREAM, IPPROTO_SCTP);
  if (fd < 0) fail("socket");
  int size = 4 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  struct sctp_authchunk data = {.sauth_chunk = 0};
  if (has(argc, argv, "auth") && setsockopt(fd, IPPROTO_SCTP, SCTP_AUTH_CHUNK, &data, sizeof data) < 0) fail("SCTP_AUTH_CHUNK");
  struct sctp_udpencaps encapsulation = {.sue_port = htons(9899)};
  encapsulation.sue_address.ss_family = address.ss_family;
  if (has(argc, argv, "udp") && setsockopt(fd, IPPROTO_SCTP, SCTP_REMOTE_UDP_ENCAPS_PORT, &encapsulation, sizeof encapsulation) < 0)
    fail("SCTP_REMOTE_UDP_ENCAPS_PORT");
  if (strcmp(argv[1], "send") == 0) {
    if (connect(fd, (void *)&address, length) < 0) fail("connect");
    unsigned count = atoi(argv[4]);
    for (unsigned i = 0; i < count; i++) {
      size_t bytes = fill(message, i);
      if (send(fd, message, bytes, 0) != (ssize_t)bytes) fail("send");
    }
    shutdown(fd, SHUT_WR);
    // Until the other end has read all.
    while (recv(fd, message, sizeof message, 0) > 0);
    return 0;
  }
  if (bind(fd, (void *)&address, length) < 0 || listen(fd, 1) < 0) fail("listen");
  puts("listening");
  fflush(stdout);
  int peer = accept(fd, NULL, NULL);
  if (peer < 0) fail("accept");
  unsigned right = 0, wrong = 0;
  for (;;) {
    size_t got = 0;
    struct msghdr header = {0};
    do {
      struct iovec place = {message + got, sizeof message - got};
      header.msg_iov = &place;
      header.msg_iovlen = 1;
      ssize_t more = recvmsg(peer, &header, 0);
      if (more <= 0) {
        if (more < 0) perror("recvmsg");
        printf("%u right, %u wrong\n", right, wrong);
        return 0;
      }
      got += more;
    } while (!(header.msg_flags & MSG_EOR) && got < sizeof message);
    size_t expected = fill(wanted, right + wrong);
    if (got == expected && memcmp(message, wanted, got) == 0) right++;
    else wrong++;
  }
}
