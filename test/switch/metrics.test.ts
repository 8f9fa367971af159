// Metrics as Prometheus reads them: from a switch with traffic, over its socket and over TCP, and judged by a reader of
// the text format of this test's own. The dashboard asks only for what there is.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Agent as HttpAgent, request } from 'undici'
import type { LocalEvent } from '../../src/api/schemas.js'
import { parseEndpoint } from '../../switch/metrics/listener.js'
import { Metrics } from '../../switch/metrics/metrics.js'
import { partOf } from '../coordinator/fixtures.js'
import { until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

/** `name{a="1",b="2"}` -> value. Throws on what is no line of the format. */
function read(text: string): { samples: Map<string, number>; kinds: Map<string, string> } {
  const samples = new Map<string, number>()
  const kinds = new Map<string, string>()
  for (const line of text.split('\n')) {
    const kind = /^# TYPE (\w+) (counter|gauge|histogram)$/.exec(line)
    if (kind !== null) kinds.set(kind[1]!, kind[2]!)
    if (line === '' || line.startsWith('# ')) continue
    const found = /^(\w+(?:\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\})?) (-?[\d.e+-]+|NaN|[+-]Inf)$/.exec(line)
    if (found === null) throw new Error(`no sample: ${line}`)
    if (samples.has(found[1]!)) throw new Error(`twice: ${line}`)
    samples.set(found[1]!, Number(found[2]))
  }
  return { samples, kinds }
}

t.test('ports, networks, drops and the process, over the socket and over TCP', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  const port = 9475
  await world.endpoint('one', 'host', { address: '10.0.0.1' })
  await world.endpoint('two', 'host', { address: '10.0.0.2' })
  const ports = { a: { device: 'one' }, b: { device: 'two' }, later: { device: 'later0' } }
  const daemon = await world.switch('host', {
    metrics: { listen: `127.0.0.1:${port}` },
    networks: { lab0: { ports } },
  })
  const client = new HttpAgent({ connect: { socketPath: world.socket('host') } })
  t.teardown(() => client.close())
  const scrape = async () => {
    const { body, headers, statusCode } = await request('http://localhost/metrics', { dispatcher: client })
    t.same([statusCode, String(headers['content-type']).split(';')[0]], [200, 'text/plain'])
    return read(await body.text())
  }
  t.equal((await world.pings('one', '10.0.0.2')).code, 0)
  const { samples, kinds } = await scrape()
  const frames = (name: string, of: string) =>
    samples.get(`snapswitch_port_${name}_frames_total{network="lab0",port="${of}"}`) ?? 0
  t.ok(frames('receive', 'a') >= 4 && frames('transmit', 'b') >= 4, 'the pings and their ARP')
  for (const [name, value] of [
    ['snapswitch_port_up{network="lab0",port="a"}', 1],
    ['snapswitch_port_up{network="lab0",port="later"}', 0],
    ['snapswitch_port_waiting{network="lab0",port="later"}', 1],
    ['snapswitch_port_info{network="lab0",port="b",device="two",kind="plain",vm=""}', 1],
    ['snapswitch_port_drops_total{network="lab0",port="a",reason="kernel"}', 0],
    ['snapswitch_network_fdb_entries{network="lab0"}', 2],
    ['snapswitch_network_busy{network="lab0"}', 0],
    ['snapswitch_network_epoch{network="lab0"}', 0],
    ['snapswitch_datapath_restarts_total', 0],
  ] as const)
    t.equal(samples.get(name), value, name)
  for (const name of ['process_cpu_seconds_total', 'process_resident_memory_bytes', 'process_start_time_seconds'])
    t.ok((samples.get(name) ?? 0) > 0, name)
  t.equal(kinds.get('snapswitch_port_receive_frames_total'), 'counter')
  t.equal(kinds.get('snapswitch_snapshot_standstill_seconds'), 'histogram')

  const url = `http://127.0.0.1:${port}`
  const overTcp = await world.in('host', 'curl', '-sf', `${url}/metrics`)
  t.same([...read(overTcp).samples.keys()].sort(), [...samples.keys()].sort())
  for (const other of ['/', '/v1/status']) {
    const status = await world.in('host', 'curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', `${url}${other}`)
    t.equal(status, '404', `nothing but metrics: ${other}`)
  }

  // A counter goes on where it was, and a port that is gone is told of no more.
  world.configFile('host', {
    metrics: { listen: `127.0.0.1:${port}` },
    networks: { lab0: { ports: { a: ports.a, b: ports.b } } },
  })
  await daemon.client.reload({ deadlineMs: patience(10_000) })
  t.equal((await world.pings('one', '10.0.0.2')).code, 0)
  const after = await scrape()
  t.ok(
    (after.samples.get('snapswitch_port_receive_frames_total{network="lab0",port="a"}') ?? 0) > frames('receive', 'a'),
  )
  t.same(
    [...after.samples.keys()].filter((name) => name.includes('later')),
    [],
  )

  const asked = [
    ...readFileSync(join(repositoryRoot(), 'packaging/grafana/snapswitch.json'), 'utf8').matchAll(
      /\b((?:snapswitch|process|nodejs)_\w+)/g,
    ),
  ]
  t.ok(asked.length > 15, 'the dashboard asks for something')
  const known = new Set(
    [...kinds.keys()].flatMap((name) =>
      kinds.get(name) === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
    ),
  )
  t.same(
    asked.map(([, name]) => name!).filter((name) => !known.has(name)),
    [],
    'of which all is there',
  )
})

t.test('what has become of snapshots and restores', async (t) => {
  let tell: (network: string, event: LocalEvent) => void = () => undefined
  const host = {
    name: 'h',
    version: '1',
    datapath: {
      restarts: 2,
      call: async () => ({ epoch: 7, fdbEntries: 0, peers: [{ alive: true }, { alive: false }] }),
    },
    ports: { info: () => [] },
  }
  const agent = {
    busy: () => 'snapshot s',
    restores: { outcomes: () => ({ done: 3, undone: 1 }) },
    watchSnapshots: (watcher: typeof tell) => {
      tell = watcher
    },
  }
  const metrics = new Metrics(host, agent, { networks: () => ['lab0'] })
  for (const [at, vm] of ['one', 'two'].entries()) {
    tell('lab0', { type: 'paused', vm, atUs: 1_000_000 })
    tell('lab0', { type: 'resumed', vm, atUs: 1_004_000 + at * 60_000 })
  }
  const part = partOf('h', ['one', 'two'], 's', 7)
  tell('lab0', { type: 'failed', error: { code: 'DEADLINE', message: '', action: '' } })
  tell('lab0', { type: 'done', part })
  tell('lab0', { type: 'done', part })
  for (let look = 0; look < 2; look++) {
    const { samples } = read(await metrics.text())
    for (const [name, value] of [
      ['snapshot_standstill_seconds_bucket{le="0.002",network="lab0"}', 0],
      ['snapshot_standstill_seconds_bucket{le="0.005",network="lab0"}', 1],
      ['snapshot_standstill_seconds_bucket{le="0.1",network="lab0"}', 2],
      ['snapshot_standstill_seconds_count{network="lab0"}', 2],
      ['snapshots_total{network="lab0",result="done"}', 2],
      ['snapshots_total{network="lab0",result="failed"}', 1],
      ['restores_total{network="lab0",result="done"}', 3],
      ['restores_total{network="lab0",result="undone"}', 1],
      ['datapath_restarts_total', 2],
      ['network_epoch{network="lab0"}', 7],
      ['network_busy{network="lab0"}', 1],
      ['network_peers{network="lab0",alive="true"}', 1],
      ['network_peers{network="lab0",alive="false"}', 1],
    ] as const)
      t.equal(samples.get(`snapswitch_${name}`), value, name)
  }
})

t.test('a port that is taken is told before anything is touched; addresses of others are refused', root, async (t) => {
  for (const [text, good] of [
    ['127.0.0.1:9475', true],
    ['127.9.9.9:1', true],
    ['[::1]:9475', true],
    ['0.0.0.0:9475', false],
    ['192.0.2.1:9475', false],
    ['[::]:9475', false],
    ['127.0.0.1', false],
    ['127.0.0.1:0', false],
    ['127.0.0.1:65536', false],
    ['localhost:9475', false],
    ['999.0.0.1:9475', false],
    ['', false],
  ] as const)
    t.equal(typeof parseEndpoint(text) !== 'string', good, text)

  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host')
  const networks = { lab0: { ports: { a: { device: 'one' } } } }
  const refused = await world.refused('host', world.configFile('host', { metrics: { listen: '0.0.0.0:1' }, networks }))
  t.match(refused.stderr, /CONFIG_INVALID.*host\.yaml:\d+:\d+: 0\.0\.0\.0 is no address of the loopback/)
  const first = await world.start(
    'host',
    process.execPath,
    '-e',
    "require('net').createServer().listen(9475, '127.0.0.1', () => console.log('up'))",
  )
  await until('the port is taken', 10_000, () => (first.stdout.includes('up') ? true : undefined))
  const busy = await world.refused(
    'host',
    world.configFile('host', { metrics: { listen: '127.0.0.1:9475' }, networks }),
  )
  t.match(busy.stderr, /DEVICE_BUSY.*cannot serve metrics at 127\.0\.0\.1 port 9475: EADDRINUSE/)
  t.notMatch(await world.in('host', 'tc', 'qdisc', 'show', 'dev', 'one'), /clsact/)
})
