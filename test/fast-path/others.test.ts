// Others at the same devices: filters, shaping and tcx programs of somebody else, hands that take ours off; and what
// happens to verdicts that nobody uses. No frame is lost to the fast path but those that it had in hand.

import t, { type Test } from 'tap'
import { EXIT, loadProgram, ProgramType, set } from '../../src/linux/bpf.js'
import { kernelIsAtLeast } from '../../src/linux/kernel.js'
import { check, libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { withXdpBehind } from '../../switch/ports/host-use.js'
import { enterFreshNamespace, run } from '../linux/namespace.js'
import { fileLimit, patience } from '../patience.js'
import { Rig } from './rig.js'
import { numbered } from './traffic.js'

t.setTimeout(fileLimit(120_000))
enterFreshNamespace()

const BPF_LINK_CREATE = 28
const BPF_XDP = 37
const BPF_TCX_INGRESS = 46
const LOAD = { burst: 8, pauseMs: 0.1 }

/** A program of somebody's at a device's tcx hook, with one verdict for all. */
function tcx(ifindex: number, verdict: number): number {
  const program = loadProgram(ProgramType.SCHED_CLS, [set(0, verdict), EXIT], 'MIT', 'load')
  const attributes = new Uint8Array(64)
  new Uint32Array(attributes.buffer).set([program, ifindex, BPF_TCX_INGRESS])
  const link = check(libc().bpf(BPF_LINK_CREATE, attributes, attributes.length), 'tcx')
  libc().close(program)
  return link
}

/** The same at a device's generic XDP hook. */
function genericXdp(ifindex: number, verdict: number): number {
  const program = loadProgram(ProgramType.XDP, [set(0, verdict), EXIT], 'MIT', 'load')
  const attributes = new Uint8Array(64)
  const XDP_FLAGS_SKB_MODE = 2
  new Uint32Array(attributes.buffer).set([program, ifindex, BPF_XDP, XDP_FLAGS_SKB_MODE])
  const link = check(libc().bpf(BPF_LINK_CREATE, attributes, attributes.length), 'XDP')
  libc().close(program)
  return link
}

function goOn(rig: Rig, milliseconds: number): void {
  const until = performance.now() + milliseconds
  while (performance.now() < until) rig.round()
}

const pairs = (rig: Rig) => rig.kernel.list(rig.forwarder).length

/** Until so many pairs are fast: who sends is started meanwhile. */
function goOnUntil(rig: Rig, wanted: number): void {
  for (const until = performance.now() + patience(10_000); pairs(rig) < wanted && performance.now() < until; )
    goOn(rig, 5)
}

const whys = (rig: Rig) => rig.kernel.paths(rig.forwarder).map(({ why }) => why)

t.test('filters behind ours, and shaping where frames leave', async (t) => {
  const rig = new Rig(2, false)
  t.teardown(() => rig.close())
  run('tc', 'filter', 'add', 'dev', 'veth0', 'ingress', 'pref', '20', 'bpf', 'da', 'bytecode', '1,6 0 0 2,')
  run('tc', 'qdisc', 'add', 'dev', 'veth1', 'root', 'pfifo', 'limit', '10000')
  rig.learn()
  t.ok(rig.becomeFast(), `${whys(rig)}`)
  const { sent, fates } = await rig.under(LOAD, () => {
    goOnUntil(rig, 1)
    goOn(rig, 50)
  })
  t.match(fates[0]![1], { received: sent[0]![1], doubled: 0, overtaken: 0 })
  t.ok(sent[0]![1]! > 0)
  rig.withoutKernel()
  t.match(run('tc', 'filter', 'show', 'dev', 'veth0', 'ingress'), /pref 20/, 'theirs is there yet')
  t.notMatch(run('tc', 'filter', 'show', 'dev', 'veth0', 'ingress'), /snapswitch/, 'ours drops again')
})

const tcxTest = (name: string, run: (t: Test) => Promise<void>) => {
  if (kernelIsAtLeast(6, 6)) t.test(name, run)
}

tcxTest('a tcx program of somebody’s', async (t) => {
  const rig = new Rig(2, false, 'plain', 'x')
  t.teardown(() => rig.close())
  rig.learn()
  t.ok(rig.becomeFast(), `${whys(rig)}`)
  const { ifindex } = rig.ports[0]!
  // TC_ACT_OK: nothing gets to our filter any more.
  let link = -1
  const { sent, fates } = await rig.under(LOAD, () => {
    goOn(rig, 50)
    link = tcx(ifindex, 0)
    goOn(rig, 50)
    for (let i = 0; i < 20; i++) rig.pass(110)
    goOn(rig, 50)
  })
  t.match(whys(rig)[0], /tcx program/)
  const lost = sent[0]![1]! - fates[0]![1]!.received
  t.ok(lost >= 0 && lost <= rig.kernel.processors, `${lost} lost, of ${sent[0]![1]}: what was in hand`)
  t.match(fates[0]![1], { doubled: 0, overtaken: 0 })
  libc().close(link)
  t.ok(rig.becomeFast(), `when it has gone: ${whys(rig)}`)
})

t.test(
  'a generic XDP program at the far end of a cable: the kernel leaves it out for what is redirected',
  async (t) => {
    const rig = new Rig(2, false, 'plain', 'g')
    const links = new Links()
    t.teardown(() => {
      links.close()
      rig.close()
    })
    const look = () => rig.hooks.behind(withXdpBehind({ here: links.list(), elsewhere: links.elsewhere() }))
    rig.learn()
    look()
    t.ok(rig.becomeFast(), `${whys(rig)}`)
    const XDP_DROP = 1
    const link = genericXdp(links.get('farg1').index, XDP_DROP)
    look()
    const { sent, fates } = await rig.under(LOAD, () => goOn(rig, 100))
    t.equal(whys(rig)[0], null)
    t.match(whys(rig)[1], /XDP program at its other end/)
    t.ok(sent[0]![1]! > 0)
    t.equal(fates[0]![1]!.received, 0, 'it drops everything')
    libc().close(link)
    look()
    t.ok(rig.becomeFast(), `when it has gone: ${whys(rig)}`)
  },
)

t.test('somebody takes off our ingress filter', async (t) => {
  const rig = new Rig(2, false, 'plain', 'y')
  t.teardown(() => rig.close())
  rig.learn()
  t.ok(rig.becomeFast(), `${whys(rig)}`)
  const { sent, fates } = await rig.under(LOAD, () => {
    goOn(rig, 50)
    run('tc', 'filter', 'del', 'dev', 'vethy0', 'ingress')
    goOn(rig, 50)
    for (let i = 0; i < 20; i++) rig.pass(110)
    goOn(rig, 50)
  })
  t.match(whys(rig)[0], /taken off/)
  const lost = sent[0]![1]! - fates[0]![1]!.received
  t.ok(lost >= 0 && lost <= rig.kernel.processors, `${lost} lost, of ${sent[0]![1]}`)
  rig.quiet('vethy0')
  t.ok(rig.becomeFast(), `when it is back: ${whys(rig)}`)
})

tcxTest('at ports of a bridge: filters of others see everything, and without a daemon the bridge does', async (t) => {
  const rig = new Rig(2, false, 'plain', 'c', 'br0')
  t.teardown(() => rig.close())
  run('tc', 'qdisc', 'add', 'dev', 'vethc0', 'clsact')
  run('tc', 'filter', 'add', 'dev', 'vethc0', 'ingress', 'pref', '20', 'bpf', 'da', 'bytecode', '1,6 0 0 0,')
  rig.hooks.look()
  rig.learn()
  t.notOk(rig.becomeFast(20), 'a filter is there')
  t.match(whys(rig)[0], /others have ingress filters/)
  t.equal(whys(rig)[1], null)
  run('tc', 'filter', 'del', 'dev', 'vethc0', 'ingress')
  t.ok(rig.becomeFast(), `when it has gone: ${whys(rig)}`)
  await rig.under(LOAD, () => goOn(rig, 50))
  t.ok(rig.kernel.list(rig.forwarder).length > 0)
  const link = tcx(rig.ports[0]!.ifindex, -1)
  rig.pass(1100)
  t.match(whys(rig)[0], /others have ingress filters/)
  libc().close(link)
  t.ok(rig.becomeFast(), `when it has gone, too: ${whys(rig)}`)
  rig.die()
  const { sent, fates } = await rig.under(LOAD, () => undefined)
  for (const [from, to] of [
    [0, 1],
    [1, 0],
  ] as const)
    t.match(
      fates[from]![to],
      { received: sent[from]![to]!, doubled: 0, overtaken: 0 },
      `${from} to ${to}, by the bridge`,
    )
  rig.hooks.close()
})

t.test('a port that goes, while its frames are fast: those between others stay so', async (t) => {
  const rig = new Rig(3, true, 'plain', 'w')
  t.teardown(() => rig.close())
  rig.learn()
  t.ok(rig.becomeFast(), `${whys(rig)}`)
  let left = 0
  const { sent, fates } = await rig.under({ burst: 1, pauseMs: 0.5 }, () => {
    goOnUntil(rig, 6)
    t.equal(pairs(rig), 6)
    rig.kernel.removePort(2, rig.forwarder)
    rig.flush()
    left = pairs(rig)
    t.same(whys(rig).slice(0, 2), [null, null])
    goOn(rig, 50)
    t.same(whys(rig).slice(0, 2), [null, null])
  })
  t.equal(left, 2)
  for (const [from, count] of sent.entries())
    for (const to of [0, 1])
      if (to !== from) t.match(fates[from]![to], { received: count[to]!, doubled: 0, overtaken: 0 }, `${from} to ${to}`)
  t.equal(fates[0]![2]!.received, sent[0]![2], 'to it they go through the daemon')
})

t.test('what is not used, and addresses that age', async (t) => {
  const rig = new Rig(3, true, 'plain', 'z')
  t.teardown(() => rig.close())
  rig.learn()
  t.ok(rig.becomeFast(), `${whys(rig)}`)
  await rig.under({ burst: 1, pauseMs: 0.1 }, () => goOnUntil(rig, 6))
  t.equal(pairs(rig), 6)
  for (let i = 0; i < 30; i++) rig.pass(1000)
  t.equal(pairs(rig), 6, 'half a minute')
  for (let i = 0; i < 40; i++) rig.pass(1000)
  t.equal(
    pairs(rig),
    0,
    `what is not used for a minute is forgotten: ${JSON.stringify(rig.kernel.list(rig.forwarder))}`,
  )
  // It goes on sending to an address that says nothing any more, until that ages.
  rig.learn()
  const frame = numbered(0, 1)
  const known = () => rig.kernel.list(rig.forwarder).some(({ from, to }) => from === 0 && to === 1)
  let seconds = 0
  for (; seconds < 400; seconds++) {
    for (let i = 0; i < 3; i++) libc().write(rig.ends[0]!, frame, frame.length)
    goOn(rig, 1)
    rig.pass(1000)
    if (seconds === 200) t.ok(known(), 'it is fast')
  }
  t.notOk(known(), 'the address has aged, and its frames are flooded')
})
