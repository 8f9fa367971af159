// The tiny guest's one program: a token ring over TCP, a disk journal and numbered UDP streams, configured by the
// kernel command line and reported on the serial console. This header is what its few files share.
#ifndef SNAPSWITCH_GUEST_LAB_H
#define SNAPSWITCH_GUEST_LAB_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_NODES = 16, MAX_STREAMS = 8, HOP_MULTIPLICATIONS = 100 };

typedef _Atomic uint64_t counter;

struct send_spec {
  uint32_t stream;
  struct sockaddr_in to;
  uint32_t rate;   // datagrams a second
  uint64_t count;  // 0: until the ring is done
};

struct receive_spec {
  uint32_t stream;
  uint16_t port;
};

enum orders_role { NO_ORDERS = 0, BUYER, BANK, SHOP };

struct orders_spec {
  enum orders_role role;
  uint16_t port;  // of bank and shop, their own
  struct sockaddr_in bank, shop;
};

struct config {
  struct in_addr address;  // what sockets bind to; 0: any
  uint32_t node;
  uint32_t nodes;  // 0: no ring
  struct in_addr ring[MAX_NODES];
  uint64_t hops;
  uint32_t hop_delay_us;
  uint32_t journal_every;  // own hops between two journal records
  char disk[64];           // empty: no journal
  uint32_t sends;
  struct send_spec send[MAX_STREAMS];
  uint32_t receives;
  struct receive_spec receive[MAX_STREAMS];
  struct orders_spec orders;
};

struct journal_state {
  counter sequence;    // last record written; 0: none yet
  counter verified;    // times that the whole journal was read back
  counter mismatches;  // times that the disk did not hold what memory says
  counter errors;
};

struct ring_state {
  counter hop;  // number of the last token handled here
  counter value_bits;
  counter tokens;
  counter resets;  // connection ended, by any error or by the peer, before the ring was done
  counter duplicated;
  counter skipped;
  counter corrupt;
  counter retransmits;
  counter longest_gap_us;  // between two tokens at this node, by the guest's monotonic clock
  atomic_bool finished;
  atomic_bool failed;
};

struct send_state {
  counter sent;
  counter errors;
  counter refused;  // ICMP errors seen after the receiver had answered once
  atomic_bool started;
  atomic_bool acknowledged;
  counter peer_received;
};

struct receive_state {
  counter received;  // different datagrams
  counter highest;   // highest number seen, plus one
  counter total;     // from the sender's END; valid when ended
  counter doubled;
  counter reordered;
  counter stale;  // older than the window: doubled or reordered, nobody can tell
  counter corrupt;
  counter overruns;  // dropped by this guest's own socket buffer
  counter longest_gap_us;
  atomic_bool started;
  atomic_bool ended;
};

struct orders_state {
  counter sent;
  counter served;
  _Atomic int64_t dropped;  // number of the first order that was; -1: none
};

extern struct config config;
extern struct journal_state journal_state;
extern struct ring_state ring_state;
extern struct send_state send_state[MAX_STREAMS];
extern struct receive_state receive_state[MAX_STREAMS];
extern struct orders_state orders_state;

// Microseconds of CLOCK_MONOTONIC. A restore moves the wall clock, so nothing here looks at it.
uint64_t monotonic_us(void);
void sleep_us(uint64_t us);
// One JSON object, one line, behind the prefix "@lab ". Safe from any thread.
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void raise_to(counter *c, uint64_t value);
uint64_t digest(const void *bytes, size_t length);

// `words` replaces the kernel command line when it is not NULL.
void config_read(const char *words);

// One hop's work: the value that the token carries on. guest/expected.ts computes the same, bit for bit.
double hop_result(double value, uint64_t number, uint32_t node);
void *ring_run(void *unused);

void journal_open(void);
// Reads all of the journal back past the page cache and compares it with memory; reports a difference at once.
void journal_verify(void);
void journal_append(uint64_t hop, uint64_t value_bits);

void *stream_send(void *index);
void *stream_receive(void *index);

void *orders_run(void *unused);

#endif
