// Makes traces that our writer does not make: both byte orders, any resolution, every kind of block. Written from the
// format's description, not from the reader.

const pad4 = (length: number) => (length + 3) & ~3

export interface Opt {
  readonly code: number
  readonly value: Uint8Array
}

export class Encoder {
  readonly #little: boolean
  readonly #parts: Buffer[] = []

  constructor(little: boolean) {
    this.#little = little
  }

  u16(value: number): Buffer {
    const bytes = Buffer.alloc(2)
    if (this.#little) bytes.writeUInt16LE(value)
    else bytes.writeUInt16BE(value)
    return bytes
  }

  u32(value: number): Buffer {
    const bytes = Buffer.alloc(4)
    if (this.#little) bytes.writeUInt32LE(value)
    else bytes.writeUInt32BE(value)
    return bytes
  }

  i64(value: bigint): Buffer {
    const bytes = Buffer.alloc(8)
    if (this.#little) bytes.writeBigInt64LE(value)
    else bytes.writeBigInt64BE(value)
    return bytes
  }

  options(given: readonly Opt[]): Buffer {
    if (given.length === 0) return Buffer.alloc(0)
    const parts = given.flatMap(({ code, value }) => [
      this.u16(code),
      this.u16(value.length),
      value,
      Buffer.alloc(pad4(value.length) - value.length),
    ])
    return Buffer.concat([...parts, Buffer.alloc(4)])
  }

  block(type: number, body: Uint8Array): this {
    const total = pad4(body.length) + 12
    const padding = Buffer.alloc(pad4(body.length) - body.length)
    this.#parts.push(Buffer.concat([this.u32(type), this.u32(total), body, padding, this.u32(total)]))
    return this
  }

  section(options: readonly Opt[] = [], minor = 0): this {
    const length = Buffer.alloc(8, 0xff)
    const head = [this.u32(0x1a2b3c4d), this.u16(1), this.u16(minor), length]
    return this.block(0x0a0d0d0a, Buffer.concat([...head, this.options(options)]))
  }

  interface(options: readonly Opt[] = [], linkType = 1, snapLength = 0): this {
    return this.block(1, Buffer.concat([this.u16(linkType), this.u16(0), this.u32(snapLength), this.options(options)]))
  }

  #packetBody(start: Buffer, ticks: bigint, bytes: Uint8Array, original: number, options: readonly Opt[]): Buffer {
    return Buffer.concat([
      start,
      this.u32(Number(ticks >> 32n)),
      this.u32(Number(ticks & 0xffffffffn)),
      this.u32(bytes.length),
      this.u32(original),
      bytes,
      Buffer.alloc(pad4(bytes.length) - bytes.length),
      this.options(options),
    ])
  }

  enhanced(id: number, ticks: bigint, bytes: Uint8Array, original = bytes.length, options: readonly Opt[] = []): this {
    return this.block(6, this.#packetBody(this.u32(id), ticks, bytes, original, options))
  }

  obsolete(id: number, drops: number, ticks: bigint, bytes: Uint8Array, options: readonly Opt[] = []): this {
    const start = Buffer.concat([this.u16(id), this.u16(drops)])
    return this.block(2, this.#packetBody(start, ticks, bytes, bytes.length, options))
  }

  simple(bytes: Uint8Array, original = bytes.length): this {
    return this.block(3, Buffer.concat([this.u32(original), bytes]))
  }

  statistics(id: number, options: readonly Opt[]): this {
    return this.block(5, Buffer.concat([this.u32(id), Buffer.alloc(8), this.options(options)]))
  }

  take(): Buffer {
    return Buffer.concat(this.#parts.splice(0))
  }

  /** A classic file. `swapped`: the two lengths stand the other way round, as before version 2.3. */
  classic(
    packets: readonly { readonly seconds: number; readonly fraction: number; readonly bytes: Uint8Array }[],
    { magic = 0xa1b2c3d4, minor = 4, linkType = 1, swapped = false, cut = 0 } = {},
  ): Buffer {
    const head = [this.u32(magic), this.u16(2), this.u16(minor), this.u32(0), this.u32(0), this.u32(65535)]
    const records = packets.flatMap(({ seconds, fraction, bytes }) => {
      const lengths = [this.u32(bytes.length), this.u32(bytes.length + cut)]
      return [this.u32(seconds), this.u32(fraction), ...(swapped ? lengths.reverse() : lengths), bytes]
    })
    return Buffer.concat([...head, this.u32(linkType), ...records])
  }
}
