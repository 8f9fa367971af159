// A file whose file system stops answering when the test says, as one does whose server is away. It is served from this
// process (FUSE: fuse(4), and include/uapi/linux/fuse.h in Linux), and mounted for the one program only that has it
// open: the mount goes with that program, and the program with this process.

import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import type { Test } from 'tap'

const op = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  OPEN: 14,
  RELEASE: 18,
  INIT: 26,
  INTERRUPT: 36,
  BATCH_FORGET: 42,
} as const
const ENOSYS = 38
const OUT_HEADER = 16
const ATTRIBUTES = 88
/** Node's stat makes a negative number of it. */
const INODE = 0xf000_0000_0005_1234n
const FILE = 2n

const isRoot = process.getuid?.() === 0

export const fuse = { skip: isRoot && existsSync('/dev/fuse') ? false : 'needs root, and /dev/fuse' }

export class HungFile {
  /** That has the file open, as descriptor 4. */
  readonly pid: number
  /** How often the file system was asked since `hold`. */
  asked = 0
  readonly #device: FileHandle
  #isHeld = false
  #held: Buffer[] = []
  #onAsked: () => void = () => {}
  /** Comes when it is asked for the first time since `hold`. */
  readonly firstAsked = new Promise<void>((resolve) => {
    this.#onAsked = resolve
  })

  private constructor(device: FileHandle, pid: number) {
    this.#device = device
    this.pid = pid
  }

  static async open(t: Test): Promise<HungFile> {
    const directory = mkdtempSync(join(tmpdir(), 'ssw-hung-'))
    t.teardown(() => rmSync(directory, { recursive: true, force: true }))
    const device = await open('/dev/fuse', 'r+')
    const child = spawn('unshare', ['--mount', 'sh', '-c', script, directory], {
      stdio: ['pipe', 'pipe', 'inherit', device.fd],
    }) as ChildProcessByStdio<Writable, Readable, null>
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
    const failed = ended.then(() => Promise.reject(new Error('the file system could not be mounted')))
    failed.catch(() => {})
    const says = () => Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), failed])
    const file = new HungFile(device, child.pid!)
    let served = Promise.resolve()
    t.teardown(async () => {
      file.answer()
      child.stdin.end()
      await ended
      await served
      await device.close()
    })
    await says()
    // Only a mounted one can be read from.
    served = file.#serve()
    await says()
    return file
  }

  /** From now on nothing is answered. */
  hold(): void {
    this.#isHeld = true
  }

  /** Everything is answered again, also what was asked meanwhile. */
  answer(): void {
    this.#isHeld = false
    for (const request of this.#held.splice(0)) this.#reply(request)
  }

  /** Ends when the file system is mounted no more. */
  async #serve(): Promise<void> {
    const buffer = Buffer.alloc(1 << 17)
    for (;;) {
      let length: number
      try {
        length = (await this.#device.read(buffer, 0, buffer.length)).bytesRead
      } catch (thrown) {
        // ENOENT: who had asked was interrupted.
        if (['ENOENT', 'EINTR', 'EAGAIN'].includes((thrown as NodeJS.ErrnoException).code ?? '')) continue
        return
      }
      const request = Buffer.from(buffer.subarray(0, length))
      if (!this.#isHeld || answerTo(request.readUInt32LE(4)) === null) {
        this.#reply(request)
        continue
      }
      this.#held.push(request)
      this.asked++
      this.#onAsked()
    }
  }

  #reply(request: Buffer): void {
    const answer = answerTo(request.readUInt32LE(4))
    if (answer === null) return
    const head = Buffer.alloc(OUT_HEADER)
    const body = answer === 'unknown' ? Buffer.alloc(0) : answer
    head.writeUInt32LE(OUT_HEADER + body.length, 0)
    head.writeInt32LE(answer === 'unknown' ? -ENOSYS : 0, 4)
    request.copy(head, 8, 8, 16)
    try {
      writeSync(this.#device.fd, Buffer.concat([head, body]))
    } catch (thrown) {
      // Whoever had asked is gone.
      if ((thrown as NodeJS.ErrnoException).code !== 'ENOENT') throw thrown
    }
  }
}

/** The descriptors of the file system itself must not outlive the test. */
const script = [
  'mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung "$0"',
  'echo mounted',
  'exec 3<&- 4<"$0/file"',
  'echo open',
  'read -r _',
].join(' && ')

/** Null: none is wanted. */
function answerTo(operation: number): Buffer | 'unknown' | null {
  switch (operation) {
    case op.FORGET:
    case op.BATCH_FORGET:
    case op.INTERRUPT:
      return null
    case op.INIT: {
      const answer = Buffer.alloc(64)
      answer.writeUInt32LE(7, 0)
      answer.writeUInt32LE(31, 4)
      // max_write
      answer.writeUInt32LE(4096, 20)
      return answer
    }
    case op.LOOKUP: {
      // Nothing of it is kept: the next who asks for attributes asks the server.
      const entry = Buffer.alloc(40)
      entry.writeBigUInt64LE(FILE, 0)
      return Buffer.concat([entry, attributes()])
    }
    case op.GETATTR:
      return Buffer.concat([Buffer.alloc(16), attributes()])
    case op.OPEN:
      return Buffer.alloc(16)
    case op.RELEASE:
      return Buffer.alloc(0)
    default:
      return 'unknown'
  }
}

function attributes(): Buffer {
  const found = Buffer.alloc(ATTRIBUTES)
  found.writeBigUInt64LE(INODE, 0)
  // mode: a regular file
  found.writeUInt32LE(0o100444, 60)
  // nlink
  found.writeUInt32LE(1, 64)
  return found
}
