// How many pages of guest memory have gone by in the first pass of QEMU's migration stream, without keeping any of it
// (QEMU's migration/savevm.c: sections; migration/ram.c: what the section of memory has, and that a pass goes through
// the blocks one after another, each from its first page on). It knows the beginning of a stream, which is memory
// alone. At anything else it is lost, and says so; at the second pass, too.

/** The size of a page in the stream of every machine whose stream this can read. */
const pageBytes = 4096

const fileMagic = 0x5145_564d
const fileVersion = 3

/** The first byte of a section. */
const section = { start: 0x01, part: 0x02, end: 0x03, configuration: 0x07 } as const
const footerBytes = 5

/** RAM_SAVE_FLAG_*, in the low bits of an address. */
const flag = { zero: 0x02, sizes: 0x04, page: 0x08, end: 0x10, sameBlock: 0x20, flush: 0x200 } as const
const flagBits = 0xfff

/** What comes next, and how many bytes of it are looked at together; behind a name, its length comes on top. */
const bytesOf = {
  'file head': 8,
  section: 1,
  configuration: 4,
  'start of section': 5,
  'name of section': 8,
  'part of section': 4,
  record: 8,
  'name of block': 1,
  'size of block': 8,
  'length of page’s block': 1,
  'name of page’s block': 0,
  devices: 0,
  lost: 0,
} as const
type State = keyof typeof bytesOf

export class RamStream {
  #state: State = 'file head'
  /** Those of the state's bytes that have come. */
  #come = 0
  readonly #head = Buffer.alloc(512)
  /** The length of the name that the state's bytes begin with. */
  #name = 0
  /** Bytes to pass over before the next of interest. */
  #skip = 0
  #id = -1
  /** Bytes of blocks that have not been named yet. */
  #unnamed = 0
  /** Bytes of the page whose block is named first. */
  #content = 0
  /** Where the last page lay: its block, its address there, and the blocks that the pass has left. */
  #block = ''
  #address = -1
  /** The address of the page under way. */
  #next = 0
  readonly #left = new Set<string>()
  #total = 0
  #pages = 0

  /** Pages of all memory; 0 until that has come. */
  get total(): number {
    return this.#total
  }

  /** Pages that have gone by. */
  get pages(): number {
    return this.#pages
  }

  get isLost(): boolean {
    return this.#state === 'lost'
  }

  /** Takes the next bytes of the stream. */
  feed(chunk: Buffer): void {
    for (let at = 0; at < chunk.length && this.#state !== 'lost' && this.#state !== 'devices'; ) {
      if (this.#skip > 0) {
        const passed = Math.min(this.#skip, chunk.length - at)
        this.#skip -= passed
        at += passed
        continue
      }
      const wanted = bytesOf[this.#state] + this.#name
      const copied = chunk.copy(this.#head, this.#come, at, at + wanted - this.#come)
      this.#come += copied
      at += copied
      if (this.#come < wanted) return
      this.#come = 0
      this.#state = this.#read()
    }
  }

  #read(): State {
    const head = this.#head
    const name = this.#name
    this.#name = 0
    switch (this.#state) {
      case 'file head':
        return head.readUInt32BE(0) === fileMagic && head.readUInt32BE(4) === fileVersion ? 'section' : 'lost'
      case 'section':
        return this.#readSection(head[0]!)
      case 'configuration':
        this.#skip = head.readUInt32BE(0)
        return 'section'
      case 'start of section':
        this.#id = head.readUInt32BE(0)
        this.#name = head[4]!
        return 'name of section'
      case 'name of section':
        return head.toString('latin1', 0, name) === 'ram' ? 'record' : 'lost'
      case 'part of section':
        return head.readUInt32BE(0) === this.#id ? 'record' : 'lost'
      case 'record':
        return this.#readRecord(head.readUInt32BE(0), head.readUInt32BE(4))
      case 'name of block':
        this.#name = head[0]!
        return 'size of block'
      case 'size of block':
        this.#unnamed -= Number(head.readBigUInt64BE(name))
        return this.#unnamed > 0 ? 'name of block' : this.#unnamed === 0 ? 'record' : 'lost'
      case 'length of page’s block':
        this.#name = head[0]!
        return 'name of page’s block'
      case 'name of page’s block':
        return this.#enter(head.toString('latin1', 0, name))
      case 'devices':
      case 'lost':
        return this.#state
    }
  }

  #readSection(kind: number): State {
    switch (kind) {
      case section.configuration:
        return 'configuration'
      case section.start:
        // A second one is of something else that is sent while the guest runs.
        return this.#id === -1 ? 'start of section' : 'lost'
      case section.part:
      case section.end:
        return 'part of section'
      default:
        return this.#total > 0 ? 'devices' : 'lost'
    }
  }

  #readRecord(high: number, low: number): State {
    const flags = low & flagBits
    const address = high * 2 ** 32 + (low - flags)
    switch (flags & ~flag.sameBlock) {
      case flag.end:
        this.#skip = footerBytes
        return 'section'
      case flag.sizes:
        this.#unnamed = address
        this.#total = Math.ceil(this.#unnamed / pageBytes)
        return this.#unnamed > 0 ? 'name of block' : 'lost'
      case flag.flush:
        return 'record'
      case flag.zero:
      case flag.page:
        this.#content = (flags & flag.page) === 0 ? 1 : pageBytes
        this.#next = address
        return (flags & flag.sameBlock) === 0 ? 'length of page’s block' : this.#count()
      default:
        return 'lost'
    }
  }

  #enter(block: string): State {
    if (block !== this.#block) {
      if (this.#left.has(block)) return 'lost'
      this.#left.add(this.#block)
      this.#block = block
      this.#address = -1
    }
    return this.#count()
  }

  #count(): State {
    if (this.#next <= this.#address) return 'lost'
    this.#address = this.#next
    this.#pages++
    this.#skip = this.#content
    return 'record'
  }
}
