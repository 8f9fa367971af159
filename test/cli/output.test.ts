// Output that cannot be written: said, and never taken for whole.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { systemTerminal } from '../../src/cli/output.js'
import { workDirectory } from '../coordinator/fake-switch.js'
import { attempt } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(60_000))

const shell = (script: string) => attempt('sh', ['-c', script])
const unwritten = (reason: string) =>
  `error OUTPUT_FAILED: standard output cannot be written: ${reason}\nwhat to do: Make room, or have it written elsewhere: it is not whole.\n`

t.test('a full disk', async (t) => {
  for (const words of ['completion bash', 'snapshot --help', 'doctor -j'])
    t.same(
      await shell(`${program()} ${words} >/dev/full`),
      { code: 1, stdout: '', stderr: unwritten('the disk is full') },
      words,
    )
})

t.test('a file that takes the first part only, as on a disk that becomes full', async (t) => {
  const file = join(await workDirectory(t), 'out')
  const { code, stderr } = await shell(`ulimit -f 2; ${program()} completion bash >${file}`)
  t.same({ code, stderr }, { code: 1, stderr: unwritten('it is as large as a file may be') })
  t.equal(readFileSync(file).length, 1024)
  await shell(`${program()} completion bash >${file}; ${program()} --version >>${file}`)
  const whole = (await shell(`${program()} completion bash; ${program()} --version`)).stdout
  t.equal(readFileSync(file, 'utf8'), whole)
})

t.test('a reader that has gone is no error', async (t) => {
  const { code, stderr } = await shell(`{ ${program()} completion bash; echo $? >&2; } | true`)
  t.equal(code, 0)
  t.match(stderr, /^(141|0)\n$/)
})

t.test('a terminal that does not know how wide it is', async (t) => {
  const own = Object.getOwnPropertyDescriptor(process.stderr, 'columns')
  t.teardown(() => Object.defineProperty(process.stderr, 'columns', own ?? { value: undefined, configurable: true }))
  for (const [said, columns] of [
    [0, 80],
    [undefined, 80],
    [132, 132],
  ] as const) {
    Object.defineProperty(process.stderr, 'columns', { value: said, configurable: true })
    t.equal(systemTerminal.columns, columns)
  }
})
