// The head of a libvirt save file (libvirt 9.0, src/qemu/qemu_saveimage.h, struct _virQEMUSaveHeader): what stands
// before QEMU's migration stream, so that `virsh restore` and virDomainRestore take an image that was made here. Pure.
//
//   0   magic "LibvirtQemudSave"     16  version = 2         20  data_len, bytes between header and stream
//   24  was_running                  28  compressed = 0      32  cookieOffset into the data, 0 without a cookie
//   36  unused[14]                   92  domain XML, NUL, cookie XML, NUL
//
// All numbers in the host's byte order; libvirt swaps when the version looks swapped.

const magic = 'LibvirtQemudSave'
const headerBytes = 92
const version = 2
const raw = 0

export interface SaveImageHead {
  /** virDomainGetXMLDesc with SECURE and MIGRATABLE. */
  readonly xml: string
  /** What libvirt needs beside the XML to make the same CPU again; null for none. */
  readonly cookie: string | null
  /** Whether `virsh restore` lets the guest run. */
  readonly wasRunning: boolean
}

export function encodeHead({ xml, cookie, wasRunning }: SaveImageHead): Buffer {
  const text = Buffer.from(`${xml}\0`)
  const extra = cookie === null ? Buffer.alloc(0) : Buffer.from(`${cookie}\0`)
  const header = Buffer.alloc(headerBytes)
  header.write(magic, 'latin1')
  const words = [version, text.length + extra.length, wasRunning ? 1 : 0, raw, cookie === null ? 0 : text.length]
  const host = new Uint32Array(words)
  Buffer.from(host.buffer).copy(header, magic.length)
  return Buffer.concat([header, text, extra])
}

/** Reads a head back; `streamAt` is where QEMU's stream begins. Null when the bytes are no head of ours, or too few. */
export function decodeHead(bytes: Buffer): (SaveImageHead & { readonly streamAt: number }) | null {
  if (bytes.length < headerBytes || bytes.toString('latin1', 0, magic.length) !== magic) return null
  const words = new Uint32Array(5)
  bytes.copy(new Uint8Array(words.buffer), 0, magic.length, magic.length + 20)
  const [found, length, running, , cookieAt] = words
  const streamAt = headerBytes + length
  if (found !== version || bytes.length < streamAt) return null
  const data = bytes.subarray(headerBytes, streamAt)
  const textAt = (at: number) => data.toString('utf8', at, data.indexOf(0, at) < 0 ? data.length : data.indexOf(0, at))
  return {
    xml: textAt(0),
    cookie: cookieAt > 0 && cookieAt < length ? textAt(cookieAt) : null,
    wasRunning: running === 1,
    streamAt,
  }
}
