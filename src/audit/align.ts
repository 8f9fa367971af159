// Which of the frames that came out of a channel is which of those that went in. Both ends were recorded for a while
// that need not be the same, and frames that look the same may come twice; so frames that are unique on both sides are
// matched first, and those between them in order (Bram Cohen's patience diff).

/** How far ahead a frame that is not unique is looked for. */
const LOOK_AHEAD = 2000

export interface Alignment {
  /** For each frame received the number of the one sent, or -1. */
  readonly sentOf: Int32Array
  /** For each frame sent whether it was received. */
  readonly isReceived: Uint8Array
  /** Frames received whose turn, by the order of sending, was another one's. */
  readonly reordered: readonly number[]
  /** Outside of these (inclusive) nothing was matched in order: the edges of the recording. */
  readonly firstSent: number
  readonly lastSent: number
  readonly firstReceived: number
  readonly lastReceived: number
}

export function align(sent: ArrayLike<number>, received: ArrayLike<number>): Alignment {
  const sentOf = new Int32Array(received.length).fill(-1)
  const isReceived = new Uint8Array(sent.length)
  const match = (r: number, s: number) => {
    sentOf[r] = s
    isReceived[s] = 1
  }
  const pairs = uniquePairs(sent, received)
  const inOrder = longestIncreasing(pairs.map(([, s]) => s))
  const isAnchor = new Uint8Array(pairs.length)
  for (const at of inOrder) isAnchor[at] = 1
  const reordered: number[] = []
  // A pair that is out of order was reordered, unless it lies at an edge: then its two may just look alike, each with a
  // counterpart that was not recorded.
  const [firstAnchor, lastAnchor] = [inOrder[0] ?? 0, inOrder.at(-1) ?? -1]
  pairs.forEach(([r, s], at) => {
    if (at < firstAnchor || at > lastAnchor) return
    match(r, s)
    if (isAnchor[at] === 0) reordered.push(r)
  })
  let r = 0
  let s = 0
  inOrder.forEach((at, which) => {
    const [anchorR, anchorS] = pairs[at]
    // Before the first anchor, what the receiver saw last is what the sender sent last.
    if (which === 0) backward(sent, received, anchorS - 1, anchorR - 1, sentOf, isReceived)
    else forward(sent, received, s, anchorS, r, anchorR, sentOf, isReceived)
    r = anchorR + 1
    s = anchorS + 1
  })
  forward(sent, received, s, sent.length, r, received.length, sentOf, isReceived)
  const isOut = new Set(reordered)
  const ordered = (at: number) => sentOf[at] >= 0 && !isOut.has(at)
  let firstReceived = 0
  while (firstReceived < received.length && !ordered(firstReceived)) firstReceived++
  let lastReceived = received.length - 1
  while (lastReceived >= 0 && !ordered(lastReceived)) lastReceived--
  const none = lastReceived < 0
  return {
    sentOf,
    isReceived,
    reordered,
    firstReceived,
    lastReceived,
    firstSent: none ? sent.length : sentOf[firstReceived],
    lastSent: none ? -1 : sentOf[lastReceived],
  }
}

function forward(
  sent: ArrayLike<number>,
  received: ArrayLike<number>,
  sFrom: number,
  sTo: number,
  rFrom: number,
  rTo: number,
  sentOf: Int32Array,
  isReceived: Uint8Array,
): void {
  let s = sFrom
  for (let r = rFrom; r < rTo; r++) {
    if (sentOf[r] >= 0) continue
    const until = Math.min(sTo, s + LOOK_AHEAD)
    for (let at = s; at < until; at++) {
      if (sent[at] !== received[r] || isReceived[at] === 1) continue
      sentOf[r] = at
      isReceived[at] = 1
      s = at + 1
      break
    }
  }
}

function backward(
  sent: ArrayLike<number>,
  received: ArrayLike<number>,
  sFrom: number,
  rFrom: number,
  sentOf: Int32Array,
  isReceived: Uint8Array,
): void {
  let s = sFrom
  for (let r = rFrom; r >= 0; r--) {
    if (sentOf[r] >= 0) continue
    const until = Math.max(-1, s - LOOK_AHEAD)
    for (let at = s; at > until; at--) {
      if (sent[at] !== received[r] || isReceived[at] === 1) continue
      sentOf[r] = at
      isReceived[at] = 1
      s = at - 1
      break
    }
  }
}

/** [received, sent] of what is there exactly once on both sides, in order of receiving. */
function uniquePairs(sent: ArrayLike<number>, received: ArrayLike<number>): [number, number][] {
  const once = (of: ArrayLike<number>) => {
    const where = new Map<number, number>()
    for (let i = 0; i < of.length; i++) where.set(of[i], where.has(of[i]) ? -1 : i)
    return where
  }
  const inSent = once(sent)
  const pairs: [number, number][] = []
  for (const [identity, r] of once(received)) {
    const s = inSent.get(identity) ?? -1
    if (r >= 0 && s >= 0) pairs.push([r, s])
  }
  return pairs.sort((a, b) => a[0] - b[0])
}

/** Indexes of a longest increasing subsequence (patience sorting). */
function longestIncreasing(values: readonly number[]): number[] {
  const tops: number[] = []
  const previous = new Int32Array(values.length)
  values.forEach((value, i) => {
    let low = 0
    let high = tops.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (values[tops[middle]] < value) low = middle + 1
      else high = middle
    }
    previous[i] = low === 0 ? -1 : tops[low - 1]
    tops[low] = i
  })
  const chain: number[] = []
  for (let i = tops.at(-1) ?? -1; i >= 0; i = previous[i]) chain.push(i)
  return chain.reverse()
}
