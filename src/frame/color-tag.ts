// The `tag` color codec: a frame's epoch as the VID of an 802.1ad service tag, outermost on trunks.
// VID = 1 + (epoch mod 4094); VID 0 marks an uncolored frame that would otherwise look like a colored or control one.

/** Number of distinct colors on the wire. */
export const COLORS = 4094

/** The escape: "what follows is payload, without a color". */
export const UNCOLORED_VID = 0

export function colorVid(epoch: number): number {
  return 1 + (epoch % COLORS)
}

/**
 * The epoch a VID stands for: of all epochs with that VID the one nearest to `reference` (serial-number comparison as in
 * RFC 1982). Right as long as epochs in flight are less than 2047 cuts apart. Returns -1 for a VID that is no color.
 */
export function epochOfVid(vid: number, reference: number): number {
  if (vid < 1 || vid > COLORS) return -1
  const behind = (((reference % COLORS) - (vid - 1)) % COLORS) + COLORS
  let back = behind % COLORS
  if (back > COLORS / 2) back -= COLORS
  const epoch = reference - back
  return epoch < 0 ? epoch + COLORS : epoch
}
