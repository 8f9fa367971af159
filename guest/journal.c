// The disk journal: a few slots at the start of a raw disk, written and read past every cache (O_DIRECT, O_DSYNC).
// Before each write the whole journal is read back and compared with memory. All of it, not only the last record: a disk
// that is *ahead* of memory, as after a restore that forgot to roll it back, differs only in the later slots.
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 8, SLOT_BYTES = 4096 };

struct record {
  char magic[8];
  uint64_t node;
  uint64_t sequence;
  uint64_t hop;
  uint64_t value_bits;
  uint64_t digest;  // of the fields above
  unsigned char filling[SLOT_BYTES - 48];
};
_Static_assert(sizeof(struct record) == SLOT_BYTES, "a slot is one block");

static struct record memory[SLOTS] __attribute__((aligned(SLOT_BYTES)));
static struct record disk[SLOTS] __attribute__((aligned(SLOT_BYTES)));
static int fd = -1;

static void failed(const char *what) {
  atomic_fetch_add(&journal_state.errors, 1);
  report("{\"type\":\"error\",\"what\":\"disk_%s\",\"node\":%u,\"errno\":%d,\"text\":\"%s\"}", what, config.node, errno,
         strerror(errno));
}

void journal_open(void) {
  const uint64_t give_up = monotonic_us() + 10000000;
  while ((fd = open(config.disk, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC)) < 0 && monotonic_us() < give_up)
    sleep_us(50000);
  if (fd < 0) return failed("open");
  if (pwrite(fd, memory, sizeof memory, 0) != sizeof memory) failed("write");
}

void journal_verify(void) {
  if (fd < 0) return;
  if (pread(fd, disk, sizeof disk, 0) != sizeof disk) return failed("read");
  atomic_fetch_add(&journal_state.verified, 1);
  for (int i = 0; i < SLOTS; i++) {
    if (memcmp(&memory[i], &disk[i], SLOT_BYTES) == 0) continue;
    atomic_fetch_add(&journal_state.mismatches, 1);
    report("{\"type\":\"error\",\"what\":\"disk_mismatch\",\"node\":%u,\"slot\":%d,\"memory\":{\"sequence\":%" PRIu64
           ",\"hop\":%" PRIu64 "},\"disk\":{\"sequence\":%" PRIu64 ",\"hop\":%" PRIu64 ",\"intact\":%s}}",
           config.node, i, memory[i].sequence, memory[i].hop, disk[i].sequence, disk[i].hop,
           disk[i].digest == digest(&disk[i], offsetof(struct record, digest)) ? "true" : "false");
    return;
  }
}

void journal_append(uint64_t hop, uint64_t value_bits) {
  if (fd < 0) return;
  journal_verify();
  const uint64_t sequence = journal_state.sequence + 1;
  struct record *r = &memory[sequence % SLOTS];
  *r = (struct record){.magic = "snapring", .node = config.node, .sequence = sequence, .hop = hop,
                       .value_bits = value_bits};
  r->digest = digest(r, offsetof(struct record, digest));
  memset(r->filling, (int)(sequence & 0xff), sizeof r->filling);
  if (pwrite(fd, r, SLOT_BYTES, (off_t)(sequence % SLOTS) * SLOT_BYTES) != SLOT_BYTES) return failed("write");
  atomic_store(&journal_state.sequence, sequence);
}
