// The fast path: repeats in the kernel what the forwarder has decided (docs/internals/fast-path.md). Nothing is decided
// here. Two programs share the maps, for all ports of one datapath:
//
//   decide  the filter of a port's packet socket. It runs first. A frame whose verdict is known and valid is kept from
//           the socket; every other one goes on to the filter that the socket would have without all this.
//   act     the filter at the ingress hook of the same device, right behind it on the same CPU, with softirqs off: it
//           redirects what was fast, and drops the rest, which the socket has or nobody wants.
//
// A port that stays in a bridge has `act_in_bridge` instead: there the rest goes on to what else is at the device.
//
// What was judged lies in a slot of the CPU, which `act` empties. An empty slot means that no socket has seen the frame
// (there is no daemon, or the frame lies in emergency memory): then `act` judges by itself.
//
// Kernel 6.1 must take it: no helper, map or instruction is newer. Rebuild with `npm run bpf`.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// struct __sk_buff (linux/bpf.h), as far as it is read here.
struct frame {
  u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex;
  u32 tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4, remote_ip6[4];
  u32 local_ip6[4], remote_port, local_port, data_meta;
  u64 flow_keys, tstamp;
  u32 wire_len, gso_segs;
  u64 sk;
  u32 gso_size;
};

#define section(name) __attribute__((section(name), used))
#define inlined static inline __attribute__((always_inline))
// Helpers have numbers (linux/bpf.h).
static void *(*const find)(void *map, const void *key) = (void *)1;
static u32 (*const processor)(void) = (void *)8;
static long (*const tail_call)(void *context, void *programs, u32 index) = (void *)12;
static long (*const push_tag)(struct frame *, u16 protocol, u16 tci) = (void *)18;
static long (*const pop_tag)(struct frame *) = (void *)19;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const read_bytes)(const struct frame *, u32 offset, void *to, u32 length) = (void *)26;

#define big(x) ((u16)__builtin_bswap16(x))
#define once(x) (*(volatile u32 *)&(x))

#define NONE 0
#define PUNT 1
#define FAST 2
#define PASS -1 /* TC_ACT_UNSPEC */
#define DROP 2 /* TC_ACT_SHOT */
#define WHOLE 0x7fffffff
#define TCP 6
#define VLAN 0x8100
#define SERVICE_VLAN 0x88a8
#define CONTROL 0x88b5
#define TAGGED 0x1000 /* a tag of a VLAN, beside its number (switch/datapath/kernel/vlan-tag.ts) */
#define IPV4 0x0800
#define IPV6 0x86dd

// The sizes of these stand in switch/datapath/kernel/layout.ts, too.
#define BUCKETS 256
#define PORTS 1024
#define DEVICES 4096

// A port. Cache lines apart by who writes.
struct port {
  u32 generation; // odd: frames may be fast, by verdicts of this generation. Written by the daemon,
  u32 trunk;      // as are this (all that comes has a tag of ours)
  u32 now;        // and a coarse clock,
  u32 paused;     // and that nothing leaves by it for a moment,
  u32 heard;      // and how many of a peer switch's frames it has read
  u32 pad[11];
  u32 missed;     // frames behind which `act` did not run: from the first one on the port is slow
  u32 told;       // frames of a peer switch that the socket was to get: none may be fast before the daemon has read them
  u32 pad2[14];
  u32 punted[BUCKETS]; // written here: unicast frames that the socket was to get, by their addresses
  u32 done[BUCKETS];   // written by the daemon: those that it has sent on or dropped
};
// Which port a device is: two indexes that are alike in the lower bits cannot both be fast.
struct device { u32 ifindex, port; };
// How often programs have begun and ended on a CPU.
struct run { u64 entered, pad[7], left, pad2[7]; };
struct key { u16 port, vlan, tag, zero; u8 addresses[12]; };
struct verdict {
  u32 ifindex, to;      // where it goes: device, and port
  u32 from_generation, to_generation;
  u32 room;             // longer frames are not fast, unless they are GSO
  u16 push, pop;        // a tag of ours or, with TAGGED, of a VLAN to push; whether one is to pop
  u32 seen, vlan;       // the VLAN is the daemon's
};
// `from`: the device that the frame came by.
struct slot { u64 number; u32 action, port, ifindex, to; u16 push, pop; u32 from; };
// Of a port on a CPU.
struct count { u64 in_frames, in_bytes, in_gso, in_segments, out_frames, out_bytes, out_gso, out_segments; };

struct map { int unused; };
#define map(name) struct map name section("maps")
map(ports);    // array of struct port, mapped
map(devices);  // array of struct device, mapped
map(runs);     // array of struct run by CPU, mapped
map(counters); // array of struct count by CPU and port, mapped
map(verdicts); // hash: struct key -> struct verdict
map(slots);    // per CPU: struct slot
map(others);   // programs by port: the filter that a socket has besides

inlined void enter(struct slot *s) {
  u32 cpu = processor();
  struct run *r = find(&runs, &cpu);
  // With its result it is a full fence: whoever has changed a generation, and then sees `left` come up to `entered`,
  // knows that no program goes by the old one.
  if (r) s->number = __sync_fetch_and_add(&r->entered, 1) + 1;
}

inlined void leave(struct slot *s) {
  u32 cpu = processor();
  struct run *r = find(&runs, &cpu);
  if (r) __sync_lock_test_and_set(&r->left, s->number);
}

// The bucket of a frame (also in switch/datapath/kernel/buckets.ts).
inlined u32 bucket_of(const u8 *a) {
  u32 to = (u32)a[2] << 24 | a[3] << 16 | a[4] << 8 | a[5], from = (u32)a[8] << 24 | a[9] << 16 | a[10] << 8 | a[11];
  u32 mixed = to * 0x9e3779b1u ^ from * 0x85ebca6bu;
  return (mixed ^ mixed >> 16) & (BUCKETS - 1);
}

// TCP straight behind the Ethernet header: other GSO frames are looked at by the socket's filters.
inlined int is_tcp(struct frame *f, u16 type) {
  u8 protocol = 0;
  u32 at = type == IPV4 ? 23 : 20;
  if (type != IPV4 && type != IPV6) return 0;
  return read_bytes(f, at, &protocol, 1) == 0 && protocol == TCP;
}

inlined int judge(struct frame *f, struct port *p, u32 number, struct slot *s, u32 *bucket) {
  struct { u8 addresses[12]; u16 type; } head;
  struct key key;
  *bucket = BUCKETS;
  if (read_bytes(f, 0, &head, 14) < 0) return PUNT;
  if (p->trunk && head.type == big(CONTROL) && !f->vlan_present) __sync_fetch_and_add(&p->told, 1);
  if (head.addresses[0] & 1) return PUNT;
  u32 b = bucket_of(head.addresses) & (BUCKETS - 1);
  *bucket = b;
  u32 generation = once(p->generation);
  if (!(generation & 1) || once(p->missed) || once(p->told) != once(p->heard)) return PUNT;
  // Those of before are not sent on yet.
  if (once(p->punted[b]) != once(p->done[b])) return PUNT;
  u16 type = big(head.type);
  if (type == VLAN || type == SERVICE_VLAN || type == CONTROL) return PUNT;
  u32 present = f->vlan_present, tag = f->vlan_tci & 0xfff;
  if (present && f->vlan_proto != big(p->trunk ? SERVICE_VLAN : VLAN)) return PUNT;
  if (p->trunk && !present) return PUNT;
  u32 gso = f->gso_size;
  if (gso && !is_tcp(f, type)) return PUNT;
  key.port = number;
  key.vlan = p->trunk || !present ? 0 : tag | TAGGED;
  key.tag = p->trunk ? tag : 0;
  key.zero = 0;
  __builtin_memcpy(key.addresses, head.addresses, 12);
  struct verdict *v = find(&verdicts, &key);
  if (!v || v->from_generation != generation) return PUNT;
  u32 to = v->to;
  struct port *q = find(&ports, &to);
  if (!q || once(q->generation) != v->to_generation || once(q->paused)) return PUNT;
  if (!gso && f->len > v->room) return PUNT;
  u32 now = once(p->now);
  if (once(v->seen) != now) once(v->seen) = now;
  s->ifindex = v->ifindex;
  s->to = to;
  s->push = v->push;
  s->pop = v->pop;
  return FAST;
}

inlined struct port *port_of(struct frame *f, u32 *number) {
  u32 ifindex = f->ifindex, at = ifindex & (DEVICES - 1);
  struct device *d = find(&devices, &at);
  if (!d || once(d->ifindex) != ifindex) return 0;
  *number = d->port;
  return find(&ports, number);
}

// Behind the frame of a slot that is full `act` has not run.
inlined void missed(struct slot *s) {
  u32 number = s->port;
  struct port *p = find(&ports, &number);
  if (p) __sync_fetch_and_add(&p->missed, 1);
  s->action = NONE;
}

section("socket") int decide(struct frame *f) {
  u32 zero = 0, number = 0, bucket;
  struct slot *s = find(&slots, &zero);
  struct port *p = port_of(f, &number);
  if (!s || !p) return WHOLE;
  if (s->action != NONE) missed(s);
  enter(s);
  s->port = number;
  s->from = f->ifindex;
  int action = judge(f, p, number, s, &bucket);
  s->action = action;
  if (action == FAST) return 0;
  // Before the frame is in the ring: no later frame of this pair can miss it.
  if (bucket < BUCKETS) __sync_fetch_and_add(&p->punted[bucket & (BUCKETS - 1)], 1);
  tail_call(f, &others, number);
  return WHOLE;
}

inlined u32 segments_of(struct frame *f, u32 size) {
  u8 first = 0, offset = 0;
  u32 head = 14;
  read_bytes(f, 14, &first, 1);
  head += first >> 4 == 4 ? (first & 15) * 4 : 40;
  read_bytes(f, head + 12, &offset, 1);
  head += (offset >> 4) * 4;
  u32 length = f->len;
  return length > head ? (length - head + size - 1) / size : 1;
}

inlined int acted(struct frame *f, struct slot *s) {
  u32 action = s->action, bucket, number = s->port;
  s->action = NONE;
  if (action == NONE) {
    struct port *p = port_of(f, &number);
    if (!p) return DROP;
    enter(s);
    action = judge(f, p, number, s, &bucket);
  }
  if (action != FAST) return DROP;
  u32 cpu = processor(), to = s->to, gso = f->gso_size, segments = gso ? segments_of(f, gso) : 1;
  u32 in = cpu * PORTS + (number & (PORTS - 1)), out = cpu * PORTS + (to & (PORTS - 1));
  struct count *c = find(&counters, &in);
  if (c) {
    c->in_frames++;
    c->in_bytes += f->len;
    c->in_gso += gso != 0;
    c->in_segments += segments;
  }
  c = find(&counters, &out);
  if (c) {
    c->out_frames++;
    c->out_bytes += f->len;
    c->out_gso += gso != 0;
    c->out_segments += segments;
  }
  if (s->pop && pop_tag(f) < 0) return DROP;
  u16 push = s->push;
  if (push && push_tag(f, push & TAGGED ? big(VLAN) : big(SERVICE_VLAN), push & (TAGGED - 1)) < 0) return DROP;
  return redirect(s->ifindex, 0);
}

section("tc") int act(struct frame *f) {
  u32 zero = 0;
  struct slot *s = find(&slots, &zero);
  if (!s) return DROP;
  if (s->action != NONE && s->from != f->ifindex) missed(s);
  s->number = s->action == NONE ? 0 : s->number;
  int result = acted(f, s);
  if (s->number) leave(s);
  return result;
}

// What is not fast, the daemon's rules keep from the bridge. A frame that no socket has seen is not judged here: when
// the daemon has gone, and its rules with it, the bridge forwards everything.
section("tc/bridge") int act_in_bridge(struct frame *f) {
  u32 zero = 0;
  struct slot *s = find(&slots, &zero);
  if (!s || s->action == NONE) return PASS;
  if (s->from != f->ifindex) {
    missed(s);
    return PASS;
  }
  int result = s->action == FAST ? acted(f, s) : PASS;
  s->action = NONE;
  leave(s);
  return result;
}

static const char terms[] section("license") = "GPL";
