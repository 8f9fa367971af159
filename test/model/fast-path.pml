/*
 * The kernel's fast path as a Promela model, for spin: frames of two flows come in at one port, each on a CPU of its own, and
 * both fall into one bucket. Program `decide` judges a frame, and `act` redirects it or leaves it to the daemon; every load and
 * store of shared memory is a step. The daemon switches between slow and fast while frames come. docs/internals/fast-path.md has
 * the rules; test/model/model.test.ts runs this exhaustively.
 *
 *   K      frames a flow
 *   FLIPS  times that the daemon makes the port fast, and slow again
 *   MOVES  times that the destination moves to the other output while frames come
 *   DROPS  the ring may have no room for a frame
 *   HELLOS times that the peer behind a trunk is told how many frames it was sent
 *   RUSHED it is told without a pause
 *   COPIES a CPU keeps a copy of the verdict, and uses it or looks it up again
 *
 * Checked: a flow's frames leave in order, none twice, none lost but those the ring had no room for (order); after the barrier
 * no frame is redirected, and as many were counted as were redirected (stillness); a frame that comes in after the daemon
 * has learned of a move leaves by the new output (void); a HELLO follows exactly the frames that it counts, or, without a pause,
 * these and others (told); no run is stuck (no invalid end).
 *
 * Memory is as spin has it: steps happen in one order. The programs' atomic additions are full fences, and what the daemon
 * stores, it stores with Atomics. `ended` is a plain store at the end of a program: x86-64 shows it after all loads and stores
 * before it. It may show late, which only makes the daemon wait.
 *
 * Left out: backlogs of veths behind the redirect, which a frame enters on one CPU, and may leave after a frame of another CPU.
 * Frames to a TAP have none: they are in the guest's queue when the redirect returns.
 *
 * NEVER_FAST claims that no frame is ever redirected: spin must find one, or the model shows nothing.
 *
 * Planted faults, each of which spin must find: NO_BUCKET_RULE, HANDLED_BEFORE_SENT, PUNT_AFTER_RING, NO_BARRIER, NUMBERS_ALONE,
 * STALE_VERDICT, LATE_VOID, NO_PAUSE, PAUSE_ALONE, COPY_ALONE, RUSHED_ALONE.
 */

#ifndef K
#define K 2
#endif
#ifndef FLIPS
#define FLIPS 2
#endif
#ifndef MOVES
#define MOVES 0
#endif
#ifndef HELLOS
#define HELLOS 0
#endif

#define CPUS 2
#define NOTHING 255

/* Shared by the programs and the daemon. */
byte word;        /* the current generation of the port; 0: slow */
byte verdict;     /* the generation at which the cached verdict was reached; 0: none */
byte verdictTo;   /* its output */
byte punted;
byte handled;
byte entered[CPUS]; /* numbers: programs that began, and ended, on a CPU */
byte ended[CPUS];
byte counted[CPUS];
#ifdef COPIES
byte kept[CPUS], keptTo[CPUS];
#endif
#if HELLOS > 0
bit paused;       /* nothing leaves but what the daemon sends */
byte forwarded;   /* by the daemon, and counted there */
byte told;
byte gone;        /* all that has left */
#endif

/* The ring: frames in the order in which the kernel put them there. A frame is flow * K + number. */
chan ring = [2 * K] of { byte };

/* What is true, beside what the parts believe. */
bit busy[CPUS];     /* the CPU is between a frame's arrival and its redirect: nothing else runs on it */
byte redirected[CPUS];
byte out[CPUS];     /* of a flow: the number of the frame that leaves next */
bit lost[2 * K];    /* the ring had no room */
bit still;          /* the barrier is behind, and the port not fast again */
hidden byte skipped;
bit home;           /* the output at which the destination is, as far as the daemon has learned */

/* A frame leaves. Those before it have left, or were lost. */
inline leave(flow, number, to, since) {
  for (skipped : 0 .. K - 1) {
    if
    :: skipped == out[flow] && skipped < number && lost[flow * K + skipped] -> out[flow]++
    :: else
    fi
  }
  skipped = 0;
  assert(out[flow] == number);
  assert(to == home || to == since);
#if HELLOS > 0
  gone++;
#endif
  out[flow]++
}

proctype Cpu(byte c) {
  byte number, generation, found, to, p, d;
  bit since; /* where the destination was when the frame came in: a switch may still send it there */
  bit fast;

  for (number : 0 .. K - 1) {
    d_step { busy[c] = 1; since = home }
    entered[c]++;
    /* decide. The verdict is one element of a map, replaced as a whole. */
#ifdef COPIES
    if
    :: kept[c] != 0 -> d_step { found = kept[c]; to = keptTo[c] }
    :: d_step { found = verdict; to = verdictTo; kept[c] = found; keptTo[c] = to }
    fi;
#else
    d_step { found = verdict; to = verdictTo }
#endif
    generation = word;
#ifdef COPY_ALONE
    fast = generation != 0 && found != 0;
#else
    fast = generation != 0 && found == generation;
#endif
#ifndef NO_BUCKET_RULE
    if
    :: fast ->
      p = punted;
      d = handled;
      fast = p == d
    :: else
    fi;
#endif
#if HELLOS > 0
    if
    :: fast -> fast = !paused
    :: else
    fi;
#endif
    if
    :: fast ->
      counted[c]++;
      ended[c] = entered[c];
      /* The redirect comes after the program. */
      d_step {
#ifdef NEVER_FAST
        assert(false);
#endif
        assert(!still);
        redirected[c]++;
        leave(c, number, to, since);
        busy[c] = 0 }
    :: else ->
#ifndef PUNT_AFTER_RING
      punted++;
#endif
      if
      :: ring ! c * K + number
#ifdef DROPS
      :: lost[c * K + number] = 1 /* and `handled` never gets there: the bucket stays slow */
#endif
      fi;
#ifdef PUNT_AFTER_RING
      punted++;
#endif
      ended[c] = entered[c];
      busy[c] = 0
    fi;
    d_step { found = 0; to = 0; generation = 0; p = 0; d = 0; fast = 0; since = 0 }
  }
}

/* The daemon is one thread: it forwards, and between frames it does what else there is. */
byte current;     /* the generation that it last gave out */
byte flips, moves, hellos;
byte waited, taken;
byte numbers[CPUS];

inline install() {
  d_step { verdict = current; verdictTo = home }
}

inline forward() {
  ring ? taken;
#ifdef HANDLED_BEFORE_SENT
  handled++;
#endif
  d_step {
#if HELLOS > 0
    forwarded++;
#endif
    leave(taken / K, taken % K, home, home) };
#ifndef HANDLED_BEFORE_SENT
  handled++;
#endif
  taken = 0
}

/* All CPUs, one by one, at an instant when no frame is being handled there. */
inline visit() {
  for (waited : 0 .. CPUS - 1) {
    !busy[waited]
  }
  waited = 0
}

/* No program that began before is running. Later ones have seen what was stored before. */
inline waitForNumbers() {
  for (waited : 0 .. CPUS - 1) {
    numbers[waited] = entered[waited];
    ended[waited] >= numbers[waited]
  }
  waited = 0
}

proctype Daemon() {
  do
  :: ring ?? [_] -> forward()
  /* Fast. */
  :: word == 0 && flips < FLIPS ->
    d_step { still = 0; current++ };
    install();
    word = current
  /* Slow: the barrier. Frames that come meanwhile wait in the ring. */
  :: word != 0 && flips < FLIPS ->
    word = 0;
#ifdef NUMBERS_ALONE
    waitForNumbers();
#else
#ifndef NO_BARRIER
    visit();
#endif
#endif
    d_step {
      still = 1;
      flips++;
      assert(counted[0] == redirected[0] && counted[1] == redirected[1]) }
#if HELLOS > 0
  :: hellos < HELLOS ->
#ifdef RUSHED
    told = forwarded + counted[0];
    told = told + counted[1];
#ifndef RUSHED_ALONE
    visit();
#endif
    d_step { assert(told <= gone); told = 0; hellos++ }
#else
#ifndef NO_PAUSE
    paused = 1;
#endif
#ifndef PAUSE_ALONE
    visit();
#endif
    told = forwarded + counted[0];
    told = told + counted[1];
    /* The HELLO leaves. */
    d_step { assert(told == gone); told = 0; hellos++ };
    paused = 0
#endif
#endif
#if MOVES > 0
  /* The destination has moved: a frame of its own came in at the other port. */
  :: word != 0 && moves < MOVES ->
    moves++;
#ifdef STALE_VERDICT
    d_step { current++; verdict = current }; /* the old verdict with the new generation */
    word = current;
    home = !home;
    install()
#else
#ifdef LATE_VOID
    home = !home;
    d_step { current++ };
    install();
    word = current
#else
    d_step { current++ };
    word = current;
    home = !home;
    install()
#endif
#endif
#endif
  :: timeout -> break
  od
}

init {
  atomic {
    run Cpu(0);
    run Cpu(1);
    run Daemon()
  }
}
