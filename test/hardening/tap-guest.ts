// The guest's side of a TAP, played by the test itself: it writes whatever it likes, and reads only when told to.

import koffi from 'koffi'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { errnoName, libc } from '../../src/linux/libc.js'
import { openTap, setTapOffload } from '../../src/linux/tap.js'
import { inNamespace } from '../switch/station.js'

export interface VirtioHeader {
  readonly flags?: number
  readonly gsoType?: number
  readonly headerLength?: number
  readonly gsoSize?: number
  readonly checksumStart?: number
  readonly checksumOffset?: number
}

/** struct virtio_net_hdr (linux/virtio_net.h), little-endian. */
export function virtioHeader(words: VirtioHeader): Uint8Array {
  const bytes = new Uint8Array(VNET_HEADER_LENGTH)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, words.flags ?? 0)
  view.setUint8(1, words.gsoType ?? 0)
  view.setUint16(2, words.headerLength ?? 0, true)
  view.setUint16(4, words.gsoSize ?? 0, true)
  view.setUint16(6, words.checksumStart ?? 0, true)
  view.setUint16(8, words.checksumOffset ?? 0, true)
  return bytes
}

const NO_WORK = virtioHeader({})

export class TapGuest {
  readonly #fd: number
  readonly #buffer = new Uint8Array(70_000)

  /** Makes the TAP in a namespace; it goes with `close`. `offload`: TapOffload bits that this guest can take. */
  constructor(namespace: string, device: string, offload = 0) {
    this.#fd = inNamespace(namespace, () => openTap(device, { nonBlocking: true }))
    setTapOffload(this.#fd, offload)
  }

  /** Null, or the name of the errno that the kernel refuses it with. */
  write(bytes: Uint8Array, header: Uint8Array = NO_WORK): string | null {
    this.#buffer.set(header)
    this.#buffer.set(bytes, header.length)
    const length = header.length + bytes.length
    return libc().write(this.#fd, this.#buffer, length) === length ? null : errnoName(koffi.errno())
  }

  /** All that lies ready, virtio-net headers first. */
  read(): Uint8Array[] {
    const frames: Uint8Array[] = []
    for (;;) {
      const length = libc().read(this.#fd, this.#buffer, this.#buffer.length)
      if (length < 0) return frames
      frames.push(this.#buffer.slice(0, length))
    }
  }

  close(): void {
    libc().close(this.#fd)
  }
}

/** A TAP guest that ends with the test; after the world, whose daemons hold the device. */
export function tapGuest(
  t: { teardown(end: () => void): void },
  world: { name(label: string): string },
  host: string,
  device: string,
  offload = 0,
): TapGuest {
  const guest = new TapGuest(world.name(host), device, offload)
  t.teardown(() => guest.close())
  return guest
}
