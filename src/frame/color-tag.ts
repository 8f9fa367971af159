// The `tag` color codec: a frame's epoch and its channel's generation as the VID of an 802.1ad service tag, outermost
// on trunks. VID = 1 + 4 * (epoch mod 1023) + generation; VID 0 marks an uncolored frame that would otherwise look like
// a colored or control one. What a generation is: src/epoch/peer-channel.ts.

/** Number of distinct colors on the wire. */
export const COLORS = 1023
/** Number of distinct generations, a power of two. */
export const GENERATIONS = 4
/** The highest VID that is a color's. */
export const LAST_VID = COLORS * GENERATIONS

/** The escape: "what follows is payload, without a color". */
export const UNCOLORED_VID = 0

export function colorVid(epoch: number, generation = 0): number {
  return 1 + (epoch % COLORS) * GENERATIONS + generation
}

/** Of a VID that is a color's. */
export function generationOfVid(vid: number): number {
  return (vid - 1) & (GENERATIONS - 1)
}

/**
 * The epoch a VID stands for: of all epochs with that VID the one nearest to `reference` (serial-number comparison as
 * in RFC 1982). Right as long as epochs in flight are less than 511 cuts apart. Returns -1 for a VID that is no color.
 */
export function epochOfVid(vid: number, reference: number): number {
  if (vid < 1 || vid > LAST_VID) return -1
  const color = ((vid - 1) / GENERATIONS) | 0
  const behind = (((reference % COLORS) - color) % COLORS) + COLORS
  let back = behind % COLORS
  if (back > COLORS / 2) back -= COLORS
  const epoch = reference - back
  return epoch < 0 ? epoch + COLORS : epoch
}
