// The thread that waits for frames sees at once that a device has changed or a process has ended, and each only once:
// the control thread looks for itself when it is told.

import { spawn } from 'node:child_process'
import t from 'tap'
import { libc } from '../../src/linux/libc.js'
import { LinkWatch } from '../../src/linux/link.js'
import { news, tellOf, tellsOfAll } from '../../src/linux/news.js'
import { ProcessEnds } from '../../src/linux/process-ends.js'
import { PollSet } from '../../switch/datapath/poll-set.js'
import { enterFreshNamespace, run } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(30_000))
enterFreshNamespace()

const LIMIT_MS = 10_000

t.test('what is new is told, once', async (t) => {
  const links = new LinkWatch()
  const ends = new ProcessEnds()
  const wakeFd = libc().eventfd(0, 0o4000)
  const silentFd = libc().eventfd(0, 0o4000)
  t.teardown(() => {
    links.close()
    ends.close()
    for (const fd of [wakeFd, silentFd]) libc().close(fd)
  })
  tellOf(links.fd)
  tellOf(ends.fd)
  t.ok(tellsOfAll())
  const set = new PollSet({ wakeFd, newsFd: news().fd }, silentFd)
  const isQuiet = () => set.wait(0, false) === 0
  /** All of it: a device that comes is told of more than once. */
  const isTold = () => {
    let told = false
    while (set.wait(told ? 50 : LIMIT_MS, false) > 0) {
      if (!set.takeNews()) return false
      told = true
    }
    return told
  }
  t.ok(isQuiet())

  run('ip', 'link', 'add', 'ssw-a', 'type', 'bridge')
  t.ok(isTold(), 'a device')
  t.ok(isQuiet(), 'though nobody has looked yet')
  run('ip', 'link', 'set', 'ssw-a', 'up')
  t.ok(isTold(), 'what comes before somebody has looked is told, too')
  t.ok(links.drain().length > 1)

  const child = spawn('sleep', ['60'])
  t.ok(ends.add(child.pid!))
  t.ok(isQuiet())
  child.kill('SIGKILL')
  t.ok(isTold(), 'an end')
  t.same(ends.drain(), [child.pid])

  set.watchNews(false)
  run('ip', 'link', 'set', 'ssw-a', 'down')
  t.ok(isQuiet(), 'not while it is not wanted')
  set.watchNews(true)
  t.ok(isTold(), 'but afterwards')
})
