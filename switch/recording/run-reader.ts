// A recording as what comes next in it: inputs, and what is said of their results. It reads one block ahead, and looks
// into it only when it is taken: what the input in hand has of the file stays as it is until then.

import { BLOCK, OPTION } from '../../src/trace/pcapng.js'
import { type InputName, inputNames } from '../forwarding/inputs.js'
import { ArrivedFrame } from './arrived.js'
import { type Beginning, jsonOf, readBeginning, readFirst } from './beginning.js'
import { Blocks, damaged } from './blocks.js'
import { Kind, PORT_OPTION, type RecordingEnd } from './format.js'

/** 'beginning': after a gap. 'refused': of the input before it. */
export type Item = 'input' | 'refused' | 'mark' | 'beginning'

/** An input as it is about to be performed, or was. */
export interface Input {
  /** 'frame', 'tick', or which command. */
  kind: 'frame' | 'tick' | InputName
  /** From 1 on. */
  number: number
  /** Of a frame, from 0 on; else of the last one. */
  frame: number
  /** Unix time in milliseconds; of an input without a time, that of the one before. */
  now: number
  /** Of a frame: where it came in; else -1. */
  port: number
  args: Record<string, unknown> | null
  /** Where in the file. */
  offset: number
}

export class RunReader {
  /** The last one that was taken; of a frame input, `arrived` has the frame. */
  readonly input: Omit<Input, 'number' | 'frame'> = { kind: 'tick', now: 0, port: -1, args: null, offset: 0 }
  readonly arrived = new ArrivedFrame()
  /** Names by index, also of ports that have left. */
  readonly portNames = new Map<number, string>()
  /** The first checksum that is not the file's. */
  damagedBefore: number | null = null
  end: RecordingEnd | null = null
  isAtEnd = false
  readonly #blocks: Blocks
  /** By interface: the index of its port. */
  #ports: number[] = []
  #interfaceName = ''
  #peeked: Item | null = null

  constructor(pieces: Iterable<Uint8Array>) {
    this.#blocks = new Blocks(pieces)
  }

  /** Of the whole file. Throws as `readBeginning`. */
  begin(): Beginning {
    readFirst(this.#blocks)
    return readBeginning(this.#blocks)
  }

  /** Where the item that was peeked at, or taken last, is in the file. */
  get offset(): number {
    return this.#blocks.offset
  }

  /** CRC-32 of the file as far as it was read. */
  crc(): number {
    return this.#blocks.crcBefore()
  }

  /** What comes next; null: nothing. Throws TRACE_INVALID where the file is damaged. */
  peek(): Item | null {
    while (this.#peeked === null) {
      if (!this.#blocks.next()) {
        this.isAtEnd = true
        return null
      }
      this.#peeked = this.#itemOf()
    }
    return this.#peeked
  }

  /** The item that was peeked at is an input: it is in `input` from now on. */
  takeInput(): void {
    this.#peeked = null
    const blocks = this.#blocks
    if (blocks.kind === Kind.INPUT) this.#readCommand()
    else if (blocks.kind === Kind.TICK) {
      this.#need(8)
      this.#come('tick', blocks.view.getFloat64(blocks.from, true), -1, null)
    } else {
      this.arrived.read(blocks, this.#ports)
      this.#come('frame', this.arrived.now, this.arrived.port, null)
    }
  }

  /** Which of the frames that the input has sent was not taken by its port. */
  takeRefused(): number {
    this.#peeked = null
    this.#need(4)
    return this.#blocks.view.getUint32(this.#blocks.from, true)
  }

  /** Whether the digest that was marked is this one. */
  takeMark(digest: Uint8Array): boolean {
    this.#peeked = null
    this.#need(4 + digest.length)
    const { bytes, from } = this.#blocks
    return digest.every((byte, i) => byte === bytes[from + 4 + i])
  }

  takeBeginning(): Beginning {
    this.#peeked = null
    this.#ports = []
    return readBeginning(this.#blocks)
  }

  /** Null: nothing that the replay has to see. */
  #itemOf(): Item | null {
    const blocks = this.#blocks
    switch (blocks.kind) {
      case Kind.TICK:
      case Kind.INPUT:
        return 'input'
      case Kind.REFUSED:
        return 'refused'
      case Kind.MARK:
        return 'mark'
      case Kind.CHECKSUM:
        this.#need(4)
        if (blocks.view.getUint32(blocks.from, true) !== blocks.crcBefore()) this.damagedBefore ??= blocks.offset
        return null
      case Kind.END:
        this.end = jsonOf(blocks) as RecordingEnd
        return null
    }
    if (blocks.type === BLOCK.enhancedPacket) return 'input'
    if (blocks.type === BLOCK.section) return 'beginning'
    if (blocks.type === BLOCK.interface) this.#readInterface()
    return null
  }

  #come(kind: Input['kind'], now: number, port: number, args: Input['args']): void {
    const { input } = this
    input.kind = kind
    input.now = now
    input.port = port
    input.args = args
    input.offset = this.#blocks.offset
  }

  #need(length: number): void {
    const { from, to, offset } = this.#blocks
    if (to - from < length) throw damaged(offset, 'a record is too short')
  }

  #readCommand(): void {
    const found = jsonOf(this.#blocks)
    const [name, args] = Array.isArray(found) ? (found as unknown[]) : []
    if (!inputNames.includes(name as InputName) || typeof args !== 'object' || args === null)
      throw damaged(this.#blocks.offset, `${String(name)} is no input`)
    const fields = args as Record<string, unknown>
    this.#come(name as InputName, typeof fields.now === 'number' ? fields.now : this.input.now, -1, fields)
  }

  #readInterface(): void {
    const blocks = this.#blocks
    let port: number | null = null
    for (const { code, value } of blocks.options(blocks.from + 8)) {
      if (code === PORT_OPTION && value.length === 4) port = value[0] | (value[1] << 8)
      if (code === OPTION.interfaceName && port === null) this.#interfaceName = new TextDecoder().decode(value)
    }
    if (port === null) throw damaged(blocks.offset, 'an interface that is no port')
    this.portNames.set(port, this.#interfaceName)
    this.#ports.push(port)
  }
}
