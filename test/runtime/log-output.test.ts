// The log never holds a daemon up: readers that go, that stand still and come back, pipes and sockets, full disks.

import { execFileSync, spawn } from 'node:child_process'
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { LogOutput, openOutput } from '../../src/runtime/log-output.js'
import { attempt, until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { root, World } from '../switch/world.js'

const line = (number: number) => `${JSON.stringify({ number, text: 'x'.repeat(200) })}\n`

t.test('a reader that stands still loses what the queue does not hold, and is told', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-log-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const fifo = join(directory, 'fifo')
  execFileSync('mkfifo', [fifo])
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  t.teardown(() => closeSync(reader))
  const writer = openSync(fifo, constants.O_WRONLY)
  t.teardown(() => closeSync(writer))
  const output = new LogOutput(openOutput(writer))
  const lines = 10_000
  for (let number = 0; number < lines; number++) output.write(line(number))
  let text = ''
  const piece = Buffer.alloc(1 << 16)
  while (!text.includes('were lost')) {
    try {
      text += piece.toString('utf8', 0, readSync(reader, piece))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
    }
    output.flush()
  }
  const heard = text
    .trimEnd()
    .split('\n')
    .map((one) => JSON.parse(one))
  const last = heard.pop()
  t.same(
    heard.map(({ number }) => number),
    heard.map((_, index) => index),
    'the first ones, whole and in order',
  )
  t.equal(last.msg, `${lines - heard.length} lines of the log were lost: its reader did not keep up`)
  t.equal(
    readFileSync(`/proc/self/fdinfo/${writer}`, 'latin1')
      .match(/^flags:\s*(\d+)$/m)?.[1]
      .slice(-4, -3),
    '0',
    'whoever shares the pipe waits as before',
  )
})

t.test('where nobody reads any more, or nothing can be written, lines are dropped', async (t) => {
  const full = openSync('/dev/full', 'w')
  t.teardown(() => closeSync(full))
  const output = new LogOutput(openOutput(full))
  for (let number = 0; number < 3; number++) output.write(line(number))
  let failing = true
  const heard: string[] = []
  const again = new LogOutput((bytes) => {
    if (failing) throw new Error('EPIPE')
    heard.push(Buffer.from(bytes).toString())
    return bytes.length
  })
  again.write('one\n')
  failing = false
  again.write('two\n')
  t.same(heard, ['two\n'])
})

t.test('a switch outlives the readers of its log', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  const config = world.configFile('host', { networks: { lab0: { ports: {} } } })
  const answers = async () => (await attempt(program(), ['status', '--socket', world.socket('host')])).code === 0
  /** Each request that is refused is a line of the log. */
  const speak = async () => {
    for (let round = 0; round < 20; round++) {
      await new Promise<void>((resolve, reject) => {
        const connection = createConnection(world.socket('host'))
        connection
          .once('error', reject)
          .once('close', () => resolve())
          .resume()
        connection.end(
          'GET /v1/none HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(99) +
            'GET /v1/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
        )
      })
    }
  }
  const [enter, ...entry] = world.enter('host')
  const run = `"${program()}" switch --config "${config}" & echo $! >"${world.directory}/pid"; wait`
  const cases = {
    'a pipe whose reader ends at once': `{ ${run}; } 2>&1 | head -1`,
    'a pipe that nobody reads': `{ ${run}; } 2>&1 | tail -f /dev/null`,
    'a socket that nobody reads': `{ ${run}; }`,
    'none at all': `{ ${run}; } 2>&- >&-`,
  }
  for (const [what, script] of Object.entries(cases)) {
    const pidFile = join(world.directory, 'pid')
    writeFileSync(pidFile, '')
    // Node makes a socket for what it calls a pipe.
    const child = spawn(enter!, [...entry, 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    const end = () => {
      try {
        process.kill(-child.pid!, 'SIGKILL')
      } catch {
        // All of it has ended.
      }
    }
    t.teardown(end)
    await until('the switch answers', 20_000, async () => ((await answers()) ? true : undefined))
    await speak()
    t.equal(await answers(), true, `it answers: ${what}`)
    process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGTERM')
    await until('it ends', 20_000, async () => ((await answers()) ? undefined : true))
    const gone = await until('it is gone', 20_000, () => {
      try {
        process.kill(Number(readFileSync(pidFile, 'utf8')), 0)
        return undefined
      } catch {
        return true
      }
    })
    t.ok(gone, `and ends: ${what}`)
    end()
  }
})

t.test('a command whose reader has gone ends without a word', async (t) => {
  const script = `"${program()}" --help | head -0; "${program()}" doctor | head -1 >/dev/null`
  const { stderr } = await attempt('bash', ['-c', script])
  t.equal(stderr, '')
})
