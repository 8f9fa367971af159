// Unpacks zstd, piece by piece, through libzstd.so.1. Node 20 has no zstd, and the packages that bring one either need
// the whole input at once or verify no checksums. dpkg itself needs libzstd, so that every Debian has it.

import koffi from 'koffi'

/** ZSTD_d_windowLogMax (zstd.h): what a frame may want us to keep, here 128 MiB, as the zstd command allows. */
const WINDOW_PARAMETER = 100
const WINDOW_LOG = 27
const ROOM = 256 * 1024

interface Buffer {
  readonly at: Uint8Array
  readonly size: number
  pos: number
}

interface Library {
  create(): unknown
  free(context: unknown): number
  set(context: unknown, parameter: number, value: number): number
  decompress(context: unknown, output: Buffer, input: Buffer): number
  isError(result: number): number
  nameOf(result: number): string
}

let bound: Library | null = null

function bind(): Library {
  const library = koffi.load('libzstd.so.1')
  koffi.struct('SnapswitchZstdBuffer', { at: 'void *', size: 'size_t', pos: 'size_t' })
  return {
    create: library.func('void *ZSTD_createDCtx()'),
    free: library.func('size_t ZSTD_freeDCtx(void *)'),
    set: library.func('size_t ZSTD_DCtx_setParameter(void *, int, int)'),
    decompress: library.func(
      'size_t ZSTD_decompressStream(void *, _Inout_ SnapswitchZstdBuffer *, _Inout_ SnapswitchZstdBuffer *)',
    ),
    isError: library.func('uint ZSTD_isError(size_t)'),
    nameOf: library.func('const char *ZSTD_getErrorName(size_t)'),
  }
}

export class Unzstd {
  readonly #library: Library
  readonly #context: unknown

  /** @throws Error where there is no libzstd */
  constructor() {
    bound ??= bind()
    this.#library = bound
    this.#context = this.#library.create()
    this.#library.set(this.#context, WINDOW_PARAMETER, WINDOW_LOG)
  }

  /** @throws Error when the data are damaged; what comes before has been yielded */
  *unpack(chunk: Uint8Array): Generator<Uint8Array, void, undefined> {
    let at = 0
    for (;;) {
      const output: Buffer = { at: new Uint8Array(ROOM), size: ROOM, pos: 0 }
      const room = output.at
      const input: Buffer = { at: chunk.subarray(at), size: chunk.length - at, pos: 0 }
      const result = this.#library.decompress(this.#context, output, input)
      if (output.pos > 0) yield room.subarray(0, output.pos)
      if (this.#library.isError(result) !== 0) throw new Error(this.#library.nameOf(result))
      at += Number(input.pos)
      // A full room may have left something inside.
      if (at === chunk.length && Number(output.pos) < ROOM) return
    }
  }

  close(): void {
    this.#library.free(this.#context)
  }
}
