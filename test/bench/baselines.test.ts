// The baselines of the bench do what they claim: the VNsnap-style switch tunnels, colors and drops early frames; the
// rules of the UnaCloud-style one mark and drop. tcpdump is the judge of what is on the trunk.

import t, { type Test } from 'tap'
import { allCores, Lab } from '../../bench/lab/lab.js'
import { commandAt, type Service } from '../../bench/lab/processes.js'
import { droppedFrames, type MachineState, rules } from '../../bench/vnsnap/subjects/unacloud.js'
import { addressTrunk, compileVnsnap, TUNNEL_PORT, vnsnapArguments } from '../../bench/vnsnap/subjects/vnsnap.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(120_000))

const cores = allCores()
const address = (endpoint: string) => `10.99.0.${endpoint.slice(1)}`

/** Machines `e1` and `e2` on host a, `e3` on host b: a namespace each, with a veth `p1` to `p3` into its host. */
const homes = { e1: 'a', e2: 'a', e3: 'b' } as const
type Endpoint = keyof typeof homes
const endpoints = Object.keys(homes) as Endpoint[]
const portOf = (endpoint: Endpoint) => `p${endpoint.slice(1)}`

async function build(t: Test, offloads: boolean): Promise<Lab> {
  const lab = new Lab()
  t.teardown(() => lab.destroy())
  for (const name of ['a', 'b', ...endpoints]) await lab.addNamespace(name)
  await lab.veth('a', 'trunk', 'b', 'trunk', 1600)
  for (const endpoint of endpoints) {
    await lab.veth(endpoint, 'eth0', homes[endpoint], portOf(endpoint))
    await lab.ip(endpoint, [`addr add ${address(endpoint)}/24 dev eth0`])
    if (!offloads) await commandAt(lab.place(endpoint, cores), ['ethtool', '-K', 'eth0', 'tx', 'off'])
  }
  return lab
}

const answers = (lab: Lab, from: Endpoint, to: Endpoint): Promise<boolean> =>
  commandAt(lab.place(from, cores), ['ping', '-q', '-c', '1', '-W', '1', address(to)]).then(
    () => true,
    () => false,
  )

const reaches = (lab: Lab, from: Endpoint, to: Endpoint) =>
  until(`a ping from ${from} to ${to}`, patience(20_000), async () =>
    (await answers(lab, from, to)) ? true : undefined,
  )

/** One command to a VNsnap-style switch, and its answer. */
async function tell(daemon: Service, line: string): Promise<string> {
  const lines = () => daemon.output.split('\n').slice(0, -1)
  const before = lines().length
  daemon.tell(`${line}\n`)
  await daemon.until(`an answer to ${line}`, () => lines().length > before, patience(10_000))
  return lines()[before]!
}

interface Counted {
  readonly forwarded: number
  readonly tunnelled: number
  readonly early: number
  readonly refused: number
}

const stats = async (daemon: Service) => JSON.parse(await tell(daemon, 'stats')) as Counted

/** A capture on the trunk of what fits the filter, first frame only. */
async function watchTrunk(lab: Lab, filter: string): Promise<Service> {
  const watch = await lab.start('a', cores, ['tcpdump', '-l', '-n', '-c', '1', '-i', 'trunk', filter])
  await watch.until('listening', (said) => said.includes('listening'))
  return watch
}

const captured = (watch: Service) =>
  watch.until('a frame', (said) => said.includes('1 packet captured'), patience(20_000))

t.test('the VNsnap-style switch tunnels, colors, and drops early frames', async (t) => {
  const lab = await build(t, false)
  await addressTrunk(lab)
  const program = await compileVnsnap(lab.scratch)
  const daemons = { a: {} as Service, b: {} as Service }
  for (const [host, here, there] of [
    ['a', '10.98.0.1', '10.98.0.2'],
    ['b', '10.98.0.2', '10.98.0.1'],
  ] as const) {
    const devices = endpoints.filter((endpoint) => homes[endpoint] === host).map(portOf)
    await lab.ip(
      host,
      devices.map((device) => `link set ${device} up`),
    )
    const words = vnsnapArguments({ spinUs: 0, address: here, peers: [there], devices })
    daemons[host] = await lab.start(host, cores, [program, ...words])
    await daemons[host].until('ready', (said) => said.includes('ready'))
  }

  const old = await watchTrunk(lab, `udp port ${TUNNEL_PORT} and udp[8] = 0xc5 and udp[9] = 0`)
  await reaches(lab, 'e1', 'e2')
  await reaches(lab, 'e1', 'e3')
  await captured(old)
  t.equal((await stats(daemons.a)).early, 0)
  t.ok((await stats(daemons.a)).tunnelled > 0, 'to the other host: in the tunnel')
  const large = ['ping', '-q', '-c', '1', '-W', '5', '-M', 'do', '-s', '1472', address('e3')]
  await commandAt(lab.place('e1', cores), large)

  for (const daemon of Object.values(daemons)) t.equal(await tell(daemon, 'begin 1'), 'ok')
  t.match(await tell(daemons.a, 'flip nobody'), 'no device')
  t.ok(await answers(lab, 'e1', 'e3'), 'begun: all machines are of the old color')
  await tell(daemons.a, 'flip p1')
  const colored = await watchTrunk(lab, `udp port ${TUNNEL_PORT} and udp[8] = 0xc5 and udp[9] = 1`)
  t.notOk(await answers(lab, 'e1', 'e2'), 'early on the same host: dropped')
  t.notOk(await answers(lab, 'e1', 'e3'), 'early on another: dropped')
  await captured(colored)
  t.ok((await stats(daemons.a)).early > 0)
  t.ok((await stats(daemons.b)).early > 0, 'by the switch of the machine that it is for')
  t.ok(await answers(lab, 'e2', 'e3'), 'between two of the old color: as ever')

  await tell(daemons.a, 'flip p2')
  await reaches(lab, 'e1', 'e2')
  t.notOk(await answers(lab, 'e2', 'e3'))
  await tell(daemons.b, 'flip p3')
  for (const daemon of Object.values(daemons)) await tell(daemon, 'end')
  await reaches(lab, 'e2', 'e3')
  const dropped = (await stats(daemons.b)).early

  // The next snapshot turns the colors round.
  for (const daemon of Object.values(daemons)) await tell(daemon, 'begin 0')
  await tell(daemons.b, 'flip all')
  t.notOk(await answers(lab, 'e3', 'e1'))
  t.ok((await stats(daemons.a)).early > 0)
  await tell(daemons.a, 'flip all')
  for (const daemon of Object.values(daemons)) await tell(daemon, 'end')
  await reaches(lab, 'e3', 'e1')
  t.equal((await stats(daemons.b)).early, dropped)
})

t.test('the rules of the UnaCloud-style snapshot mark, and drop early frames', async (t) => {
  const lab = await build(t, true)
  for (const host of ['a', 'b'] as const) {
    const devices = ['trunk', ...endpoints.filter((endpoint) => homes[endpoint] === host).map(portOf)]
    await lab.ip(host, ['link add br0 type bridge', ...devices.map((device) => `link set ${device} master br0`)])
    await lab.ip(host, ['link set br0 up', ...devices.map((device) => `link set ${device} up`)])
  }
  const nft = (host: string, words: readonly string[], input?: string) =>
    commandAt(lab.place(host, cores), ['nft', ...words], input === undefined ? {} : { input })
  const apply = async (states: Partial<Record<Endpoint, MachineState>>) => {
    for (const host of ['a', 'b'] as const) {
      const here = endpoints.flatMap((endpoint) => {
        const state = states[endpoint]
        return homes[endpoint] === host && state !== undefined ? [[portOf(endpoint), state] as const] : []
      })
      await nft(host, ['-f', '-'], rules(new Map(here)))
    }
  }
  const dropped = async (host: string) => droppedFrames(await nft(host, ['-j', 'list', 'ruleset']))

  await reaches(lab, 'e1', 'e2')
  await reaches(lab, 'e1', 'e3')
  await reaches(lab, 'e2', 'e3')
  const marked = await watchTrunk(lab, 'icmp and ip[1] = 64')
  await apply({ e1: 'armed', e2: 'armed', e3: 'armed' })
  t.ok(await answers(lab, 'e1', 'e3'))
  await captured(marked)
  await apply({ e1: 'saved', e2: 'armed', e3: 'armed' })
  t.notOk(await answers(lab, 'e1', 'e2'))
  t.ok((await dropped('a')) > 0, 'early on the same host: dropped')
  t.notOk(await answers(lab, 'e1', 'e3'))
  t.ok((await dropped('b')) > 0, 'early on another: dropped')
  t.ok(await answers(lab, 'e2', 'e3'))
  await apply({ e1: 'saved', e2: 'saved', e3: 'saved' })
  t.ok(await answers(lab, 'e1', 'e3'))
  await apply({})
  t.ok(await answers(lab, 'e3', 'e1'))
  t.equal(await dropped('b'), 0)
})
