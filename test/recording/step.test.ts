// `snapswitch replay --step` as a person has it, on a terminal (of script(1)).

import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { snapswitch } from './processes.js'
import { scenes } from './scenes.js'

t.setTimeout(fileLimit(120_000))

const PROMPT = 'step, h: help> '
const CTRL_C = '\x03'
const CTRL_D = '\x04'

class Typing {
  readonly ended: Promise<number | null>
  readonly #child
  said = ''
  #seen = 0
  #reaction: { readonly words: string; readonly keys: string } | null = null

  constructor(t: { teardown(act: () => unknown): void }, path: string, ...more: string[]) {
    const command = [snapswitch, 'replay', path, '--step', ...more].join(' ')
    const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] })
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.said += text
      if (this.#reaction === null || !this.said.includes(this.#reaction.words)) return
      this.#child.stdin.write(this.#reaction.keys)
      this.#reaction = null
    })
    this.ended = new Promise((resolve) => child.once('close', resolve))
    t.teardown(() => child.kill('SIGKILL'))
    this.#child = child
  }

  type(keys: string): void {
    this.#seen = this.said.length
    this.#child.stdin.write(keys)
  }

  /** Types `keys` as soon as `words` are said. */
  once(words: string, keys: string): void {
    this.#reaction = { words, keys }
  }

  /** What was said since the last keys, up to the next prompt. */
  async answer(keys: string | null = null): Promise<string> {
    if (keys !== null) this.type(keys)
    await until('the prompt', 20_000, () => this.said.indexOf(PROMPT, this.#seen) >= 0 || undefined)
    return this.said.slice(this.#seen)
  }
}

t.test('step by step on a terminal', async (t) => {
  const path = join(t.testdir(), 'run.pcapng')
  const [file] = scenes.learning(10_000)
  writeFileSync(path, file!)

  await t.test('one, several, a point, the state, a mistake', async (t) => {
    const typing = new Typing(t, path)
    t.match(await typing.answer(), /Enter: the next input[\s\S]*\n#1 0\.000000 s addPort/)
    t.match(await typing.answer('\r'), /#2 /)
    const three = await typing.answer('3\r')
    t.match(three, /#3 [\s\S]*#4 [\s\S]*#5 /)
    t.notMatch(three, /#6 /)
    t.match(await typing.answer('frame:100\r'), /#\d+ [\d.]+ s frame 100 at /)
    t.match(await typing.answer('frame:3\r'), /it is behind/)
    t.match(await typing.answer('input:3000\r'), /#3000 /)
    t.match(await typing.answer('s\r'), /after input 3000, [\s\S]*GATE[\s\S]*ADDRESS/)
    t.match(await typing.answer('huh\r'), /huh is nothing that can be done here/)
    typing.type('q\r')
    t.equal(await typing.ended, 0)
  })

  await t.test('Ctrl-C ends a long step, and without one the command; so does Ctrl-D', async (t) => {
    const typing = new Typing(t, path)
    await typing.answer()
    // At once: long before the end, which a busy test might wait for in vain.
    typing.once('#60 ', CTRL_C)
    await typing.answer('9999999\r')
    t.notMatch(typing.said, /^the end/m)
    t.match(await typing.answer('\r'), /#\d+ /)
    typing.type(CTRL_C)
    t.equal(await typing.ended, 130)
    const other = new Typing(t, path)
    await other.answer()
    other.type(CTRL_D)
    t.equal(await other.ended, 0)
  })

  await t.test('the end', async (t) => {
    const typing = new Typing(t, path, '--from', 'frame:50', '--until', 'frame:51')
    t.match(await typing.answer(), /s frame 50 at /)
    t.match(await typing.answer('\r'), /s frame 51 at /)
    typing.type('\r')
    t.equal(await typing.ended, 0)
    t.match(typing.said, /the end\r?\n$/)
  })
})
