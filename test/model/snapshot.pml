/*
 * The snapshot protocol as a Promela model, for spin (spinroot.com): N hosts, each one VM behind one switch, every switch
 * joined to every other by a lossless channel that may deliver in any order. test/model/model.test.ts runs it exhaustively.
 *
 *   N         hosts, 2 or 3
 *   K         frames that each VM sends, at any time, to any other VM
 *   RING      ... for three hosts: each to the next
 *   PAIR      ... for three hosts: 0 and 1 to each other, 2 to 0. With K = 1 and the hosts renamed, RING and PAIR are all
 *   SNAPSHOTS snapshots, one after the other
 *   ABORT     any host may fail before it is done, and the coordinator may give up, at any time
 *
 * Checked: assertions (no orphan, exact channel state, every frame read once), no invalid end state (a run that is stuck is
 * one), and the claim `ends`: every run reaches an end with gates open (end states alone do not say that of endless loops).
 *
 * What is left out: loss, time, ports of one VM beyond the first, policy `drop`, restores, failures of a daemon.
 * test/simulation has those, with the production code; here the schedules are few and small, but all of them.
 *
 * Planted faults, each of which spin must find: FLIP_BEFORE_DRAIN, DELIVER_EARLY, SKIP_RECORDING, SKIP_RESIDUE,
 * CLOSE_WITHOUT_COUNT, CLOSE_WHILE_GATED, NO_TRIGGER, NO_ADVANCE, KEEP_GATE.
 */

#ifndef N
#define N 2
#endif
#ifndef K
#define K 2
#endif
#ifndef SNAPSHOTS
#define SNAPSHOTS 1
#endif
#define FRAMES (N * K)
#ifdef PAIR
#define FIRST_CHOICE (i == 0 -> 1 : 0)
#else
#define FIRST_CHOICE ((i + 1) % N)
#endif
#if defined(RING) || defined(PAIR) || N == 2
#define SECOND_CHOICE false
#else
#define SECOND_CHOICE true
#endif

/* Where a frame is. Frames i*K .. i*K+K-1 are VM i's. A set of frames in FLIGHT has no order: the channel may reorder. */
#define UNSENT 0
#define SENT   1 /* in the sender's port: the switch has not read it */
#define FLIGHT 2 /* between two switches */
#define HELD   3 /* at the receiver's switch */
#define TAP    4 /* delivered; the receiving VM has not read it */
#define READ   5
byte where[FRAMES];
byte to[FRAMES];
byte color[FRAMES];

/* A host's part of a snapshot: switch/agent/local-snapshot.ts, and of its only member: member-cut.ts. */
#define IDLE     0
#define PREPARED 1
#define CUTTING  2
#define DONE     3
#define UNDOING  4
#define FAILED   5
byte part[N];

#define READY    0
#define GATED    1
#define PAUSED   2
#define FLIPPED  3
#define RESUMED  4
#define RELEASED 5
byte member[N];

/* The switch. */
byte epoch[N];
bit closed[N];   /* the gate */
bit opened[N];   /* a snapshot is open: in-transit frames are recorded */
bit reported[N]; /* all channels closed */
bit running[N];  /* the VM */

/* Messages that may arrive at any time. */
bit take[N];
bit early[N];    /* Lai-Yang: a frame or marker from after the cut has come */
bit advanced[N]; /* the two halves of undoing */
bit recovered[N];

/* Markers by snapshot, sender and receiver. */
#define NONE    0
#define ON_WAY  1
#define ARRIVED 2
#define MARKER(s, from, at) (((s) - 1) * N * N + (from) * N + (at))
byte marker[SNAPSHOTS * N * N];
byte markerCount[SNAPSHOTS * N * N];

/* The coordinator. */
#define PENDING  0
#define COMPLETE 1
#define UNDONE   2
byte snapshot; /* the epoch it leads to */
byte outcome;
bit over;

/* What is true, beside what the protocol believes: a VM's cut is the instant of its pause. */
bit cut[N];
bit late[FRAMES];     /* sent after the sender's cut */
bit before[FRAMES];   /* read before the receiver's cut */
bit recorded[FRAMES]; /* in the channel state */
bit doomed;           /* a host has called its part off: what would be checked of this snapshot no longer matters */

hidden byte x;
hidden byte y;
hidden byte count;

inline record(k) {
#ifndef SKIP_RECORDING
  assert(!recorded[k]);
  recorded[k] = !doomed
#else
  skip
#endif
}

inline tellEarly(i) {
#ifndef NO_TRIGGER
  if
  :: part[i] == PREPARED -> early[i] = 1
  :: else
  fi
#else
  skip
#endif
}

/* The delivery rule, src/epoch/delivery.ts. */
inline judge(i, k) {
  if
  :: closed[i] ->
    where[k] = HELD;
    if
    :: color[k] > epoch[i] -> tellEarly(i)
    :: else
    fi
  :: !closed[i] && color[k] == epoch[i] -> where[k] = TAP
  :: !closed[i] && color[k] > epoch[i] ->
#ifdef DELIVER_EARLY
    where[k] = TAP;
#else
    where[k] = HELD;
#endif
    tellEarly(i)
  :: !closed[i] && color[k] < epoch[i] ->
    where[k] = TAP;
    if
    :: opened[i] && !reported[i] && color[k] < snapshot && snapshot <= epoch[i] -> record(k)
    :: else
    fi
  fi
}

inline siftHeld(i) {
  for (y : 0 .. FRAMES - 1) {
    if
    :: where[y] == HELD && to[y] == i && !closed[i] && color[y] <= epoch[i] -> judge(i, y)
    :: else
    fi
  }
  y = 0 /* a d_step may not end in a loop */
}

/* The switch reads a frame from its VM's port: from now on it has a color. */
inline transmit(i, k) {
  color[k] = epoch[i];
  where[k] = FLIGHT
}

inline drain(i) {
  for (y : i * K .. i * K + K - 1) {
    if
    :: where[y] == SENT -> transmit(i, y)
    :: else
    fi
  }
}

inline raise(i) {
  if
  :: epoch[i] < snapshot -> epoch[i] = snapshot
  :: else
  fi
}

inline residue(i) {
  for (y : 0 .. FRAMES - 1) {
    if
    :: where[y] == TAP && to[y] == i && opened[i] -> record(y)
    :: else
    fi
  }
}

/* To every peer, how many frames of older colors it has been sent. */
inline sendMarkers(i) {
  for (x : 0 .. N - 1) {
    if
    :: x != i ->
      count = 0;
      for (y : i * K .. i * K + K - 1) {
        if
        :: where[y] >= FLIGHT && to[y] == x && color[y] < snapshot -> count++
        :: else
        fi
      }
      marker[MARKER(snapshot, i, x)] = ON_WAY;
      markerCount[MARKER(snapshot, i, x)] = count
    :: else
    fi
  }
}

inline flip(i) {
#ifndef FLIP_BEFORE_DRAIN
  drain(i);
#endif
#ifndef SKIP_RESIDUE
  residue(i);
#endif
  raise(i);
  siftHeld(i);
  if
  :: opened[i] -> sendMarkers(i)
  :: else
  fi
}

inline openGate(i) {
  closed[i] = 0;
  siftHeld(i)
}

/* Channels of host i that are still open, in `count`. */
inline countOpenChannels(i) {
  count = 0;
  for (x : 0 .. N - 1) {
    if
    :: x != i && marker[MARKER(snapshot, x, i)] != ARRIVED -> count++
    :: x != i && marker[MARKER(snapshot, x, i)] == ARRIVED ->
#ifndef CLOSE_WITHOUT_COUNT
      count = count + markerCount[MARKER(snapshot, x, i)];
      for (y : x * K .. x * K + K - 1) {
        if
        :: where[y] > FLIGHT && to[y] == i && color[y] < snapshot -> count--
        :: else
        fi
      }
#else
      skip
#endif
    :: else
    fi
  }
}

inline closeChannels(i) {
  countOpenChannels(i);
#ifndef CLOSE_WHILE_GATED
  if
  :: closed[i] -> count++
  :: else
  fi;
#endif
  if
  :: count == 0 && opened[i] && epoch[i] >= snapshot -> reported[i] = 1
  :: else
  fi
}

/* Its part is whole: channels closed and the VM saved and running again. */
inline finishPart(i) {
  if
  :: part[i] == CUTTING && reported[i] && member[i] == RELEASED ->
    part[i] = DONE;
    opened[i] = 0
  :: else
  fi
}

/* After whatever may have closed a channel: the forwarder's tick. */
inline tick(i) {
  if
  :: part[i] == CUTTING ->
    if
    :: !reported[i] && member[i] >= FLIPPED -> closeChannels(i)
    :: else
    fi;
    finishPart(i)
  :: else
  fi
}

inline readFrame(i, k) {
  where[k] = READ;
  before[k] = !cut[i] && !doomed
}

#define SEND(k) \
  :: atomic { (k) / K == i && where[k] == UNSENT && running[i] && ((k) % K == 0 || where[(k) - ((k) % K > 0)] != UNSENT) -> \
    late[k] = cut[i] && !doomed; \
    where[k] = SENT; \
    if \
    :: to[k] = FIRST_CHOICE \
    :: SECOND_CHOICE -> to[k] = (i + 2) % N \
    fi }
#define TRANSMIT(k) \
  :: d_step { (k) / K == i && where[k] == SENT && ((k) % K == 0 || where[(k) - ((k) % K > 0)] != SENT) -> transmit(i, k) }
#define ARRIVE(k)  :: d_step { where[k] == FLIGHT && to[k] == i -> judge(i, k); tick(i) }
#define RECEIVE(k) :: d_step { where[k] == TAP && to[k] == i && running[i] -> readFrame(i, k) }
#define FRAME(k) SEND(k) TRANSMIT(k) ARRIVE(k) RECEIVE(k)

#define ARRIVE_MARKER(s, from) \
  :: d_step { from != i && marker[MARKER(s, from, i)] == ON_WAY -> \
    marker[MARKER(s, from, i)] = ARRIVED; \
    if \
    :: epoch[i] < s -> tellEarly(i) \
    :: else \
    fi; \
    tick(i) }

/* The step that is under way when a part is called off still happens, but none after it. */
#define mayStep (part[i] == CUTTING || (part[i] == UNDOING && !recovered[i]))
inline stepTo(i, next) {
  member[i] = (part[i] == CUTTING -> next : RELEASED)
}

inline forgetTruth() {
  for (x : 0 .. FRAMES - 1) {
    late[x] = 0;
    before[x] = 0;
    recorded[x] = 0
  }
  for (x : 0 .. N - 1) {
    cut[x] = 0
  }
  x = 0
}

inline callOff(i) {
  member[i] = (part[i] == PREPARED -> RELEASED : member[i]);
  part[i] = UNDOING;
  take[i] = 0;
  early[i] = 0;
  doomed = 1;
  forgetTruth()
}

proctype Host(byte i) {
  do
  FRAME(0)
  FRAME(1)
#if FRAMES > 2
  FRAME(2)
#endif
#if FRAMES > 3
  FRAME(3)
#endif
#if FRAMES > 4
  FRAME(4)
#endif
#if FRAMES > 5
  FRAME(5)
#endif
  ARRIVE_MARKER(1, 0)
  ARRIVE_MARKER(1, 1)
#if N > 2
  ARRIVE_MARKER(1, 2)
#endif
#if SNAPSHOTS > 1
  ARRIVE_MARKER(2, 0)
  ARRIVE_MARKER(2, 1)
#if N > 2
  ARRIVE_MARKER(2, 2)
#endif
#endif

  /* TAKE, or the trigger before it. */
  :: d_step { part[i] == PREPARED && (take[i] || early[i]) ->
    take[i] = 0;
    early[i] = 0;
    part[i] = CUTTING;
    opened[i] = 1 }

  /* The cut. */
  :: d_step { mayStep && member[i] == READY -> stepTo(i, GATED); closed[i] = 1 }
  :: d_step { mayStep && member[i] == GATED -> stepTo(i, PAUSED); running[i] = 0; cut[i] = !doomed }
  :: d_step { mayStep && member[i] == PAUSED -> stepTo(i, FLIPPED); flip(i); tick(i) }
  :: d_step { mayStep && member[i] == FLIPPED -> stepTo(i, RESUMED); running[i] = 1 }
  :: d_step { mayStep && member[i] == RESUMED -> stepTo(i, RELEASED); openGate(i); tick(i) }

  /* Calling off. */
  :: d_step { outcome == UNDONE && (part[i] == PREPARED || part[i] == CUTTING) -> callOff(i) }
#ifdef ABORT
  :: d_step { part[i] == PREPARED || part[i] == CUTTING -> callOff(i) }
#endif
  :: d_step { part[i] == UNDOING && !recovered[i] ->
    recovered[i] = 1;
    running[i] = 1;
#ifndef KEEP_GATE
    openGate(i)
#endif
  }
  :: d_step { part[i] == UNDOING && !advanced[i] ->
    advanced[i] = 1;
    opened[i] = 0;
#ifndef NO_ADVANCE
    raise(i);
    openGate(i)
#endif
  }
  :: d_step { part[i] == UNDOING && recovered[i] && advanced[i] ->
    part[i] = FAILED;
    recovered[i] = 0;
    advanced[i] = 0;
    member[i] = RELEASED }

  :: over -> break
  od
}

#if N == 2
#define all(p) (p(0) && p(1))
#define any(p) (p(0) || p(1))
#else
#define all(p) (p(0) && p(1) && p(2))
#define any(p) (p(0) || p(1) || p(2))
#endif
#if K == 1
#define allRead(i)  (where[i] == READ)
#elif K == 2
#define allRead(i)  (where[(i) * 2] == READ && where[(i) * 2 + 1] == READ)
#else
#define allRead(i)  (where[(i) * 3] == READ && where[(i) * 3 + 1] == READ && where[(i) * 3 + 2] == READ)
#endif
#define isDone(i)   (part[i] == DONE)
#define isFailed(i) (part[i] == FAILED)
#define isEnded(i)  (part[i] == DONE || part[i] == FAILED)
#define isQuiet(i)  (!closed[i] && running[i] && !opened[i] && epoch[i] == snapshot)

inline forgetSnapshot() {
  doomed = 0;
  for (x : 0 .. N - 1) {
    part[x] = IDLE;
    member[x] = READY;
    reported[x] = 0;
    take[x] = 0
  }
  forgetTruth()
}

inline prepare() {
  snapshot++;
  outcome = PENDING;
  for (x : 0 .. N - 1) {
    part[x] = PREPARED
  }
  for (x : 0 .. FRAMES - 1) {
    before[x] = (where[x] == READ)
  }
}

inline checkConsistency() {
  for (x : 0 .. FRAMES - 1) {
    assert(!(late[x] && before[x]));
    assert(recorded[x] == (where[x] != UNSENT && !late[x] && !before[x]))
  }
}

proctype Coordinator() {
  do
  :: snapshot < SNAPSHOTS ->
    atomic { prepare() }
    /* Of two hosts TAKE may never reach one: frames and markers bring the news. */
    atomic {
      take[0] = 1;
#if N == 2
      if
      :: take[1] = 1
      :: skip
      fi
#else
      take[1] = 1;
      take[2] = 1
#endif
    }
    if
    :: atomic { all(isDone) -> outcome = COMPLETE; checkConsistency() }
    :: d_step { any(isFailed) -> outcome = UNDONE }
#ifdef ABORT
    :: d_step { !all(isDone) -> outcome = UNDONE }
#endif
    fi;
    /* DISCARD is on its way to all, then. Its end, either way: gates open, machines running, every host in the new epoch. */
    atomic { all(isEnded) ->
      assert(all(isQuiet));
      forgetSnapshot()
    }
  :: else -> break
  od;
  atomic { all(allRead) -> over = 1 }
}

init {
  atomic {
    for (x : 0 .. N - 1) {
      running[x] = 1;
      run Host(x)
    }
    run Coordinator()
  }
}

ltl ends { <> (over && all(isQuiet) && outcome != PENDING) }
