// The fast path: repeats in the kernel what the forwarder has decided (docs/internals/fast-path.md). Nothing is decided
// here. The programs share their maps, for all ports of one datapath:
//
//   decide  the filter of a port's packet socket. It runs first. A frame whose verdict is known and valid is kept from
//           the socket; every other one goes on to the filter that the socket would have without all this.
//   act     the filter at the ingress hook of the same device, right behind it on the same CPU, with softirqs off: it
//           redirects what was fast, and drops the rest, which the socket has or nobody wants.
//
// `act_early` does the first of these two sooner, where the kernel has a hook for that. A port that stays in a bridge has
// `act_in_bridge` instead: there the rest goes on to what else is at the device.
//
// What was judged lies in `struct run`, which `act` empties. Found empty, it means that no socket has seen the frame (there
// is no daemon, or the frame lies in emergency memory): then `act` judges by itself.
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
#define KEPT 64

// A port. Cache lines apart by who writes.
struct port {
  u32 generation; // odd: frames may be fast, by verdicts of this generation. Written by the daemon,
  u32 trunk;      // as are this (all that comes has a tag of ours)
  u32 now;        // and a coarse clock,
  u32 paused;     // and that nothing leaves by it for a moment,
  u32 heard;      // and how many of a peer switch's frames it has read,
  u32 rushed;     // and that more come than it could take over: none waits until it has read such a frame
  u32 pad[10];
  u32 missed;     // frames behind which `act` did not run: from the first one on the port is slow
  u32 told;       // frames of a peer switch that the socket was to get: none may be fast before the daemon has read them
  u32 pad2[14];
  u32 punted[BUCKETS]; // written here: unicast frames that the socket was to get, by their addresses
  u32 done[BUCKETS];   // written by the daemon: those that it has sent on or dropped
};
// Which port a device is: two indexes that are alike in the lower bits cannot both be fast.
struct device { u32 ifindex, port; };
struct key { u16 port, vlan, tag, zero; u8 addresses[12]; };
struct verdict {
  u32 ifindex, to;      // where it goes: device, and port
  u32 from_generation, to_generation;
  u32 room;             // longer frames are not fast, unless they are GSO
  u16 push, pop;        // a tag of ours or, with TAGGED, of a VLAN to push; whether one is to pop
  u32 seen, vlan;       // the VLAN is the daemon's
};

// A copy of a verdict, of which this processor has made use in the second that it says: a look-up costs more than all else
// that is done to judge a frame. Generations make it void as they do the verdict, of which there is one at most for a key
// at generations.
struct kept { u32 key[5]; struct verdict verdict; u32 pad[3]; };
// Of a processor: how often programs have begun and ended there, and what was judged, until `act` has emptied it.
// Programs of one processor run one after the other, with softirqs off, so nobody else writes here.
struct run {
  u64 entered, number;
  u32 action, port, from, ifindex, to; // `from`: the device that the frame came by
  u16 push, pop;
  u64 pad[3], left, pad2[7];
  struct kept kept[KEPT]; // by bucket
};

// Of a port on a processor.
struct count { u64 in_frames, in_bytes, in_gso, in_segments, out_frames, out_bytes, out_gso, out_segments; };
struct counts { struct count of[PORTS]; };

// Maps of one element, mapped: their places are written into the programs, and no look-up is needed.
extern struct port ports[PORTS];
extern struct device devices[DEVICES];
struct map { int unused; };
#define map(name) struct map name section("maps")
map(runs);     // array of struct run by processor, mapped
map(counters); // array of struct counts by processor, mapped
map(verdicts); // hash: struct key -> struct verdict
map(others);   // programs by port: the filter that a socket has besides

inlined struct port *port_at(u32 number) { return &ports[number & (PORTS - 1)]; }

inlined struct run *here(void) {
  u32 number = processor();
  return find(&runs, &number);
}

// With its result it is a full fence: whoever has changed a generation, and then sees `left` come up to `entered`, knows
// that no program goes by the old one.
inlined void enter(struct run *r) { r->number = __sync_fetch_and_add(&r->entered, 1) + 1; }

// A plain store: x86-64 lets none be seen before the loads and stores in front of it, so that whoever sees this one sees
// what was counted, and knows that no generation is looked at any more. That it may be seen late does no harm.
inlined void leave(struct run *r) {
  asm volatile("" ::: "memory");
  *(volatile u64 *)&r->left = r->number;
}

// The bucket of a frame (also in switch/datapath/kernel/buckets.ts).
inlined u32 bucket_of(const u32 *addresses) {
  return (addresses[0] * 0x9e3779b1u ^ addresses[1] * 0x85ebca6bu ^ addresses[2] * 0xc2b2ae35u) >> 24;
}

// TCP straight behind the Ethernet header: other GSO frames are looked at by the socket's filters.
inlined int is_tcp(struct frame *f, u16 type) {
  u8 protocol = 0;
  u32 at = type == big(IPV4) ? 23 : 20;
  if (type != big(IPV4) && type != big(IPV6)) return 0;
  return read_bytes(f, at, &protocol, 1) == 0 && protocol == TCP;
}

// The verdict of a key; nothing: there is none of this generation.
inlined struct verdict *look_up(const u32 *key, u32 generation, u32 now, struct kept *k) {
  struct verdict *v = &k->verdict, *other;
  u32 isOfNow = v->seen == now;
  if (isOfNow && v->from_generation == generation && !((k->key[0] ^ key[0]) | (k->key[1] ^ key[1]) | (k->key[2] ^ key[2]) |
                                                      (k->key[3] ^ key[3]) | (k->key[4] ^ key[4])))
    return v;
  other = find(&verdicts, key);
  if (!other || other->from_generation != generation) return 0;
  if (once(other->seen) != now) once(other->seen) = now;
  // Two that are in use at a time are not to take turns here.
  if (isOfNow) return other;
  for (int i = 0; i < 5; i++) k->key[i] = key[i];
  *v = *other;
  v->seen = now;
  // Its memory may have become another's meanwhile.
  other = find(&verdicts, key);
  if (other && !((v->ifindex ^ other->ifindex) | (v->to ^ other->to) | (v->from_generation ^ other->from_generation) |
                 (v->to_generation ^ other->to_generation) | (v->room ^ other->room) | (v->push ^ other->push) |
                 (v->pop ^ other->pop)))
    return v;
  v->from_generation = 0;
  return 0;
}

inlined int judge(struct frame *f, u32 number, struct run *r, u32 *bucket) {
  // The frame's type comes to lie behind its addresses.
  struct { union { u32 words[5]; struct key key; }; u16 type; } of;
  struct port *p = port_at(number);
  *bucket = BUCKETS;
  if (read_bytes(f, 0, of.key.addresses, 14) < 0) return PUNT;
  u16 type = of.type;
  u32 trunk = p->trunk, present = f->vlan_present;
  if (trunk && type == big(CONTROL) && !present) __sync_fetch_and_add(&p->told, 1);
  if (of.key.addresses[0] & 1) return PUNT;
  u32 b = bucket_of(of.words + 2) & (BUCKETS - 1);
  *bucket = b;
  u32 generation = once(p->generation);
  if (!(generation & 1) || once(p->missed)) return PUNT;
  if (once(p->told) != once(p->heard) && !once(p->rushed)) return PUNT;
  // Those of before are not sent on yet.
  if (once(p->punted[b]) != once(p->done[b])) return PUNT;
  if (type == big(VLAN) || type == big(SERVICE_VLAN) || type == big(CONTROL)) return PUNT;
  u32 gso = f->gso_size;
  if (gso && !is_tcp(f, type)) return PUNT;
  of.words[0] = number;
  of.words[1] = 0;
  if (present) {
    u32 tag = f->vlan_tci & 0xfff;
    if (f->vlan_proto != big(trunk ? SERVICE_VLAN : VLAN)) return PUNT;
    if (trunk) of.key.tag = tag;
    else of.key.vlan = tag | TAGGED;
  } else if (trunk) return PUNT;
  struct verdict *v = look_up(of.words, generation, once(p->now), &r->kept[b & (KEPT - 1)]);
  if (!v) return PUNT;
  u32 to = v->to;
  struct port *q = port_at(to);
  if (once(q->generation) != v->to_generation || once(q->paused)) return PUNT;
  if (!gso && f->len > v->room) return PUNT;
  r->ifindex = v->ifindex;
  r->to = to;
  r->push = v->push;
  r->pop = v->pop;
  return FAST;
}

#define NOBODY PORTS
inlined u32 port_of(struct frame *f) {
  u32 ifindex = f->ifindex;
  struct device *d = &devices[ifindex & (DEVICES - 1)];
  return once(d->ifindex) == ifindex ? d->port & (PORTS - 1) : NOBODY;
}

// Behind the frame that was judged `act` has not run.
inlined void missed(struct run *r) {
  __sync_fetch_and_add(&port_at(r->port)->missed, 1);
  r->action = NONE;
}

section("socket") int decide(struct frame *f) {
  u32 number = port_of(f), bucket;
  struct run *r = here();
  if (!r || number == NOBODY) return WHOLE;
  if (r->action != NONE) missed(r);
  enter(r);
  r->port = number;
  r->from = f->ifindex;
  int action = judge(f, number, r, &bucket);
  r->action = action;
  if (action == FAST) return 0;
  // Before the frame is in the ring: no later frame of this pair can miss it.
  if (bucket < BUCKETS) __sync_fetch_and_add(&port_at(number)->punted[bucket & (BUCKETS - 1)], 1);
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

inlined int send_on(struct frame *f, struct run *r) {
  u32 length = f->len, gso = f->gso_size, segments = gso ? segments_of(f, gso) : 1, number = processor();
  struct counts *all = find(&counters, &number);
  if (!all) return DROP;
  struct count *in = &all->of[r->port & (PORTS - 1)], *out = &all->of[r->to & (PORTS - 1)];
  in->in_frames++;
  in->in_bytes += length;
  in->in_segments += segments;
  out->out_frames++;
  out->out_bytes += length;
  out->out_segments += segments;
  if (gso) {
    in->in_gso++;
    out->out_gso++;
  }
  if (r->pop && pop_tag(f) < 0) return DROP;
  u16 push = r->push;
  if (push && push_tag(f, push & TAGGED ? big(VLAN) : big(SERVICE_VLAN), push & (TAGGED - 1)) < 0) return DROP;
  return redirect(r->ifindex, 0);
}

section("tc") int act(struct frame *f) {
  struct run *r = here();
  if (!r) return DROP;
  if (r->action != NONE && r->from != f->ifindex) missed(r);
  int action = r->action;
  r->action = NONE;
  if (action == NONE) {
    u32 number = port_of(f), bucket;
    if (number == NOBODY) return DROP;
    enter(r);
    r->port = number;
    action = judge(f, number, r, &bucket);
  }
  int result = action == FAST ? send_on(f, r) : DROP;
  leave(r);
  return result;
}

// At the tcx hook, before `act`, where the kernel has one: the way there is the shorter one. It does what `act` would do
// with what is fast, and leaves the rest to it.
section("tc/early") int act_early(struct frame *f) {
  struct run *r = here();
  if (!r || r->action != FAST || r->from != f->ifindex) return PASS;
  r->action = NONE;
  int result = send_on(f, r);
  leave(r);
  return result;
}

// What is not fast, the daemon's rules keep from the bridge. A frame that no socket has seen is not judged here: when
// the daemon has gone, and its rules with it, the bridge forwards everything.
section("tc/bridge") int act_in_bridge(struct frame *f) {
  struct run *r = here();
  if (!r || r->action == NONE) return PASS;
  if (r->from != f->ifindex) {
    missed(r);
    return PASS;
  }
  int result = r->action == FAST ? send_on(f, r) : PASS;
  r->action = NONE;
  leave(r);
  return result;
}

static const char terms[] section("license") = "GPL";
