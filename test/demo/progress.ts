// What a person sees while the demo works: a heading per step, a bar that moves on a terminal, sparse lines elsewhere.

const barWidth = 30

export class Progress {
  readonly #out: NodeJS.WriteStream
  readonly #live: boolean
  readonly #began = performance.now()
  #quarter = -1
  #open = false

  constructor(out: NodeJS.WriteStream) {
    this.#out = out
    this.#live = out.isTTY === true
  }

  get color(): boolean {
    return this.#live && process.env.NO_COLOR === undefined
  }

  step(text: string): void {
    this.#close()
    const seconds = ((performance.now() - this.#began) / 1000).toFixed(1).padStart(5)
    this.#out.write(`${seconds} s  ${text}\n`)
  }

  note(text: string): void {
    this.#close()
    this.#out.write(`         ${text}\n`)
  }

  /** `share` from 0 to 1. */
  bar(share: number, text: string): void {
    const done = Math.round(Math.min(1, Math.max(0, share)) * barWidth)
    if (this.#live) {
      this.#out.write(`\r         [${'#'.repeat(done).padEnd(barWidth, '.')}] ${text}\x1b[K`)
      this.#open = true
      return
    }
    const quarter = Math.floor(share * 4)
    if (quarter <= this.#quarter) return
    this.#quarter = quarter
    this.#out.write(`         ${text}\n`)
  }

  /** A new bar may begin. */
  endBar(): void {
    this.#close()
    this.#quarter = -1
  }

  print(text: string): void {
    this.#close()
    this.#out.write(`${text}\n`)
  }

  #close(): void {
    if (this.#open) this.#out.write('\n')
    this.#open = false
  }
}
