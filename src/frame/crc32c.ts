// CRC32c (Castagnoli), SCTP's checksum: RFC 9260, appendix A. Eight bytes a step, from tables.

const POLYNOMIAL = 0x82f63b78
const STEP = 8

/** tables[k * 256 + b]: what byte b comes to when k more bytes follow it. */
const tables = new Int32Array(STEP * 256)
for (let byte = 0; byte < 256; byte++) {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ ((value & 1) === 0 ? 0 : POLYNOMIAL)
  tables[byte] = value
}
for (let at = 256; at < tables.length; at++) {
  const before = tables[at - 256]
  tables[at] = (before >>> 8) ^ tables[before & 0xff]
}

/** Of `length` bytes, as an int32: written with its lowest byte first. */
export function crc32c(view: DataView, start: number, length: number): number {
  let crc = -1
  let at = start
  const end = start + length
  for (; at + STEP <= end; at += STEP) {
    const low = crc ^ view.getInt32(at, true)
    const high = view.getInt32(at + 4, true)
    crc =
      tables[1792 + (low & 0xff)] ^
      tables[1536 + ((low >>> 8) & 0xff)] ^
      tables[1280 + ((low >>> 16) & 0xff)] ^
      tables[1024 + (low >>> 24)] ^
      tables[768 + (high & 0xff)] ^
      tables[512 + ((high >>> 8) & 0xff)] ^
      tables[256 + ((high >>> 16) & 0xff)] ^
      tables[high >>> 24]
  }
  for (; at < end; at++) crc = (crc >>> 8) ^ tables[(crc ^ view.getUint8(at)) & 0xff]
  return ~crc
}
