// Live captures of a running switch, read by tshark and capinfos.

import { execFile, spawn } from 'node:child_process'
import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { run, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit } from '../patience.js'
import { stations, testFrame } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { Capturing, tshark } from './capturing.js'

t.setTimeout(fileLimit(240_000))

const snapswitch = join(repositoryRoot(), 'bin', 'snapswitch')
const network = {
  networks: {
    lab0: {
      linkLocal: 'drop',
      ports: {
        one: { device: 'one', kind: 'member', vm: 'alpha' },
        two: { device: 'two', kind: 'member', vm: 'beta' },
        three: { device: 'three' },
      },
    },
  },
}

t.test('a live capture', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  for (const [at, label] of ['one', 'two', 'three'].entries())
    await world.endpoint(label, 'host', { address: `10.67.0.${at + 1}` })
  await world.switch('host', network)
  const socket = world.socket('host')
  const file = (name: string) => join(world.directory, name)

  await t.test('each port is an interface; direction, verdict and color are there; one frame has one id', async (t) => {
    const path = file('all.pcapng')
    writeFileSync(path, 'what was there before', { mode: 0o644 })
    const capturing = await Capturing.begin(t, socket, 'lab0', '-w', path)
    const { stdout } = await world.pings('one', '10.67.0.2')
    const answered = Number(/ (\d+) received/.exec(stdout)?.[1])
    t.ok(answered > 1, stdout)
    t.equal(await capturing.stop(), 0, capturing.stderr)
    t.match(capturing.stderr, /^\d+ packets; 0 lost/m)
    t.equal(statSync(path).mode & 0o777, 0o600)
    const requests = await tshark(path, 'icmp.type == 8')
    t.ok(requests.length >= 2 * answered, 'in and out')
    t.match(requests[0], { port: 'one', direction: 'in', comment: 'received, color 0' })
    t.match(requests[1], { port: 'two', direction: 'out', comment: 'delivered, color 0' })
    t.equal(requests[0]!.id, requests[1]!.id)
    t.not(requests[0]!.id, requests[2]!.id)
    const asked = await tshark(path, 'arp.opcode == 1')
    t.ok(asked.some(({ port, comment }) => port === 'three' && comment === 'delivered, color 0'))
    const info = await run('capinfos', ['-I', path])
    t.match(info, /Name = one[\s\S]*Description = member port of network lab0, machine alpha/)
    t.match(info, /Name = three/)
    t.match(info, /Number of stat entries = 1/)
  })

  await t.test('filters: by port and direction, by machine, by VLAN, by address and type', async (t) => {
    const [sender] = stations(t, world, 'one', 'two')
    const cases = [
      { args: ['--port', 'two', '--direction', 'out', 'vlan 7'], expected: ['two'] },
      { args: ['vm alpha or (port three and vlan)'], expected: ['one', 'three'] },
      { args: ['--mac', '02:00:00:00:00:01', '--ethertype', '0x88b6', 'not in', 'vlan'], expected: ['three', 'two'] },
      { args: ['--verdict', 'received', 'vlan', '7'], expected: ['one'] },
      { args: ['reason vlan'], expected: [] },
    ]
    const running = []
    for (const [at, { args }] of cases.entries())
      running.push(
        await Capturing.begin(t, socket, 'lab0', '-w', file(`filter${at}.pcapng`), '--snaplen', '40', ...args),
      )
    const listed = await run(snapswitch, ['capture', '--list', '--socket', socket])
    t.equal(listed.trim().split('\n').length, 1 + cases.length, listed)
    t.equal(sender.send(testFrame(1, { tags: [0x81, 0, 0, 7] })), null)
    t.equal((await world.pings('three', '10.67.0.2')).code, 0)
    for (const [at, { args, expected }] of cases.entries()) {
      t.equal(await running[at]!.stop(), 0, running[at]!.stderr)
      const found = (await tshark(file(`filter${at}.pcapng`), 'vlan')).filter(({ protocols }) =>
        /88b6|data/.test(protocols),
      )
      t.same(found.map(({ port }) => port).sort(), expected, args.join(' '))
      for (const { captured, length } of found) t.ok(Number(captured) <= 40 && Number(length) === 60)
    }
  })

  await t.test('what is dropped, and why', async (t) => {
    const [sender] = stations(t, world, 'one', 'two')
    const path = file('dropped.pcapng')
    // Of ours alone: the namespaces speak IPv6 of their own accord, and longer than an old MTU once theirs is raised.
    const ours = ['--verdict', 'dropped', '--ethertype', '0x88b6']
    const capturing = await Capturing.begin(t, socket, 'lab0', '-w', path, '-c', '4', ...ours)
    const linkLocal = testFrame(2)
    linkLocal.set([1, 0x80, 0xc2, 0, 0, 0x0e])
    const badSource = testFrame(3)
    badSource.set([1, 0, 0, 0, 0, 1], 6)
    await world.ip('one', 'link', 'set', 'eth0', 'mtu', '4000')
    await world.ip('host', 'link', 'set', 'one', 'mtu', '4000')
    for (const frame of [testFrame(1), linkLocal, badSource, testFrame(4, { length: 3000 })])
      t.equal(sender.send(frame), null)
    t.equal(await capturing.ended, 0, capturing.stderr)
    // The ports of a flood have their turns in any order.
    t.same((await tshark(path)).map(({ port, comment }) => `${port} ${comment}`).sort(), [
      'one dropped: bad-source, color 0',
      'one dropped: link-local, color 0',
      'three dropped: too-long, color 0',
      'two dropped: too-long, color 0',
    ])
  })

  await t.test('into a pipe that tshark reads while it runs; when it has enough, the capture ends', async (t) => {
    const line = `${snapswitch} capture lab0 --socket ${socket} -w - ip | tshark -l -c 2 -i - -T fields -e frame.comment`
    const pipe = spawn('sh', ['-c', line], { detached: true, stdio: ['ignore', 'pipe', 'ignore'] })
    t.teardown(() => {
      if (pipe.exitCode === null) process.kill(-pipe.pid!, 'SIGKILL')
    })
    let stdout = ''
    pipe.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    const enough = new Promise<boolean>((resolve) => pipe.once('close', () => resolve(true)))
    await until('two packets', 60_000, async () =>
      (await Promise.race([enough, world.pings('one', '10.67.0.2').then(() => false)])) ? true : undefined,
    )
    t.match(stdout, /^received, color 0\ndelivered, color 0\n/)
  })

  await t.test('lines to read', async (t) => {
    const capturing = await Capturing.begin(t, socket, 'lab0', '-c', '1', 'arp', 'in', 'port', 'one')
    await world.ip('one', 'neigh', 'flush', 'all')
    await world.pings('one', '10.67.0.2')
    t.equal(await capturing.ended, 0, capturing.stderr)
    t.match(
      capturing.output.toString(),
      /^[\d:.]+ one -> received, color 0: .* ARP who has 10.67.0.2\? tell 10.67.0.1, /,
    )
  })

  await t.test('a ring of files, by size: the last ones stay', async (t) => {
    const [sender] = stations(t, world, 'one', 'two')
    const args = ['-w', file('ring.pcapng'), '--file-size', '8k', '--files', '2', '--port', 'one', '-c', '60']
    const capturing = await Capturing.begin(t, socket, 'lab0', ...args, 'ethertype', '0x88b6')
    for (let id = 0; id < 60; id++) t.equal(sender.send(testFrame(id, { length: 1000 })), null)
    t.equal(await capturing.ended, 0, capturing.stderr)
    const files = readdirSync(world.directory)
      .filter((name) => name.startsWith('ring_'))
      .sort()
    t.equal(files.length, 2)
    t.match(capturing.stderr, /60 packets in \d+ files/)
    let packets = 0
    for (const name of files) {
      t.match(name, /^ring_\d{5}_\d{14}\.pcapng$/)
      t.ok(statSync(file(name)).size <= 8192 + 2000)
      packets += (await tshark(file(name))).length
    }
    t.ok(packets > 7 && packets < 60)
  })

  await t.test('as many as may run at once, and no more', async (t) => {
    const running = []
    for (let i = 0; i < 8; i++) running.push(await Capturing.begin(t, socket, 'lab0', '-w', '/dev/null'))
    const refused = await promisify(execFile)(snapswitch, ['capture', 'lab0', '--socket', socket]).catch(
      (error) => error,
    )
    t.match(refused.stderr, /^error CAPTURE_BUSY/)
    for (const one of running) t.equal(await one.stop(), 0, one.stderr)
    t.equal((await world.pings('one', '10.67.0.2')).code, 0)
  })

  await t.test('what cannot be asked for', async (t) => {
    const refusals: [args: string[], code: number, says: RegExp][] = [
      [['nowhere'], 1, /NETWORK_UNKNOWN/],
      [['lab0', 'port'], 2, /after `port` comes a name/],
      [['lab0', 'reason', 'boredom'], 1, /REQUEST_INVALID.*boredom/],
      [['lab0', '(', 'in'], 2, /a `\)` is missing/],
      [['lab0', '--file-size', '1M'], 2, /need a file/],
      [['lab0', '-w', '/nowhere/at/all'], 1, /OUTPUT_FAILED/],
    ]
    for (const [args, code, says] of refusals) {
      const result = await promisify(execFile)(snapswitch, ['capture', '--socket', socket, ...args]).catch(
        (error) => error,
      )
      t.equal(result.code, code, args.join(' '))
      t.match(result.stderr, says)
    }
  })
})
