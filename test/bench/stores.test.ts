// What `scripts/bench stores` counts: nothing in a consistent cut, whatever is in transit, and each fault that is
// planted.

import { gzipSync } from 'node:zlib'
import t from 'tap'
import {
  type Acknowledged,
  cutCounts,
  disagreements,
  endCounts,
  figuresOf,
  isWrongCut,
  isWrongEnd,
  keyOf,
  type MachineState,
  type NetworkState,
} from '../../bench/stores/counts.js'
import { parseState, stateIn } from '../../bench/stores/examine.js'
import { storesBench } from '../../bench/stores/figures.js'
import { readOptions } from '../../bench/stores/main.js'

const upTo = (count: number) => new Map(Array.from({ length: count }, (_, number) => [keyOf(number), `${number}00`]))
const acknowledgedBy = (store: Acknowledged['store'], number: number, more: number): Acknowledged => ({
  store,
  key: keyOf(number),
  value: `${number}00`,
  more,
})

const member = (index: number, entries: number, written: number): MachineState => ({
  etcd: { member: `${index + 1}`, leader: '1', term: 2, index: 100 + entries, values: upTo(entries) },
  redis: { isPrimary: index === 0, offset: written * 40, fullSyncs: index === 0 ? 2 : 0, values: upTo(written) },
  acknowledged: [],
  ended: 0,
  resets: 1,
})

/**
 * The leader and the primary are ahead, as they are at any moment: write 9 of etcd is on its way to the second
 * follower, its acknowledgement on its way to the client; redis has write 7, of which the second replica and the client
 * know nothing yet.
 */
const consistent: NetworkState = {
  members: [member(0, 10, 8), member(1, 10, 8), member(2, 9, 7)],
  client: {
    etcd: null,
    redis: null,
    acknowledged: [
      ...Array.from({ length: 9 }, (_, number) => acknowledgedBy('etcd', number, number % 3)),
      ...Array.from({ length: 7 }, (_, number) => acknowledgedBy('redis', number, number < 6 ? 2 : 1)),
    ],
    ended: 0,
    resets: 0,
  },
  begun: { etcd: 10, redis: 8 },
}

function withMember(network: NetworkState, index: number, change: (state: MachineState) => MachineState): NetworkState {
  return { ...network, members: network.members.map((state, at) => (at === index ? change(state) : state)) }
}

/** The same network a moment later, all at rest. */
const rested: NetworkState = {
  ...consistent,
  members: [member(0, 10, 8), member(1, 10, 8), member(2, 10, 8)],
}

t.test('a consistent cut counts nothing', async (t) => {
  const counts = cutCounts(consistent)
  t.same(counts, { 'cut.missing': 0, 'cut.ahead': 0, 'cut.unbegun': 0 })
  t.notOk(isWrongCut(counts))
})

t.test(
  'a server that was saved before the others misses what it acknowledged, and is behind those that follow it',
  async (t) => {
    const counts = cutCounts(withMember(consistent, 0, () => member(0, 5, 4)))
    // Of etcd, number 6 by the first member; of redis 4, 5 and 6.
    t.same(counts, { 'cut.missing': 4, 'cut.ahead': 4, 'cut.unbegun': 0 })
    t.ok(isWrongCut(counts))
  },
)

t.test('a follower of another term says nothing of how far its leader is', async (t) => {
  const candidate = withMember(consistent, 2, (state) => ({
    ...state,
    etcd: { ...state.etcd!, term: 3, leader: '', index: 999 },
  }))
  t.equal(cutCounts(candidate)['cut.ahead'], 0)
})

t.test('a client that was saved before its servers has not begun what they hold', async (t) => {
  const counts = cutCounts({
    ...consistent,
    client: { ...consistent.client, acknowledged: consistent.client.acknowledged.filter(({ key }) => key < keyOf(4)) },
    begun: { etcd: 5, redis: 5 },
  })
  t.same(counts, { 'cut.missing': 0, 'cut.ahead': 0, 'cut.unbegun': 5 + 3 })
  t.ok(isWrongCut(counts))
})

t.test('a restored network that came to one state counts nothing', async (t) => {
  const counts = endCounts(consistent, rested)
  t.notOk(isWrongEnd({ ...counts, still: 0 }), JSON.stringify(counts))
  t.ok(Object.values(counts).every((count) => count === 0))
})

t.test('each fault of a restored network is counted', async (t) => {
  const lost = endCounts(
    consistent,
    withMember(rested, 0, () => member(0, 10, 5)),
  )
  t.equal(lost['end.missing'], 2, 'the primary lacks acknowledged writes')
  t.equal(lost['end.disagree'], 3, 'and what the replicas have beyond it')
  t.ok(isWrongEnd({ ...lost, still: 0 }))
  const other = withMember(rested, 1, (state) => ({
    ...state,
    etcd: { ...state.etcd!, values: new Map([...upTo(10), [keyOf(3), '1']]) },
  }))
  t.equal(endCounts(consistent, other)['end.disagree'], 1, 'the same entry with another content')
  const ended = withMember(rested, 2, (state) => ({
    ...state,
    etcd: null,
    ended: 3,
    resets: 4,
    redis: { ...state.redis!, fullSyncs: 1 },
  }))
  const counts = endCounts(consistent, ended)
  t.same(
    ['end.silent', 'end.ended', 'end.resets', 'end.fullSyncs'].map((name) => counts[name]),
    [1, 3, 3, 1],
  )
  t.ok(isWrongEnd({ ...endCounts(consistent, rested), still: 1 }), 'a service that does not serve')
  t.equal(disagreements([upTo(3), upTo(2)]), 1)
})

t.test('figures of all attempts', async (t) => {
  const good = { ...cutCounts(consistent), ...endCounts(consistent, rested), still: 0, 'etcd.first': 2 }
  const figures = figuresOf([
    good,
    { ...good, 'end.missing': 3, 'etcd.first': 4 },
    { ...good, 'cut.ahead': 1, still: 1 },
  ])
  t.match(figures, { attempts: 3, wrong: 2, wrongCuts: 1, wrongEnds: 2, still: 1, 'end.missing': 3, 'etcd.first': 2 })
  t.equal(figures['2.end.missing'], 3)
  const names = storesBench.tables.flatMap((table) => table.figures.map(({ name }) => name))
  t.ok(storesBench.plots.every((name) => names.includes(name)))
  t.ok(Object.values(storesBench.ratios).every(({ figure }) => names.includes(figure)))
  for (const name of names.filter((one) => one !== 'etcd.all' && !one.startsWith('redis.') && one !== 'end.reconnects'))
    t.type(figures[name], 'number', name)
})

const base64 = (text: string) => Buffer.from(text).toString('base64')

/** As the servers answer: etcd 3.4 by its gateway, redis 7. */
const member0 = [
  '@status',
  '{"header":{"cluster_id":"1","member_id":"7","revision":"3","raft_term":"2"},"version":"3.4.23","dbSize":"20480","leader":"7","raftIndex":"12","raftTerm":"2","raftAppliedIndex":"12"}',
  '@redis',
  '$300\r\n# Replication\r\nrole:master\r\nconnected_slaves:2\r\nmaster_repl_offset:400\r\n\r\n$20\r\n# Stats\r\nsync_full:2\r\n+OK\r',
  '@values',
  '*2\r\n$12\r\nk0000000 111\r\n$12\r\nk0000001 222\r\n+OK\r',
  '@range',
  `{"header":{},"kvs":[{"key":"${base64('k0000004')}","create_revision":"2","mod_revision":"2","version":"1","value":"${base64('55')}"}],"count":"1"}`,
  '@ended',
  'etcd',
  '@tcp',
  'Tcp: RtoAlgorithm ActiveOpens EstabResets CurrEstab',
  'Tcp: 1 5 3 9',
  '',
].join('\n')

t.test('states of machines are read, and those of servers that do not answer', async (t) => {
  const state = parseState(member0)
  t.same(
    { ...state.etcd, values: [...state.etcd!.values] },
    { member: '7', leader: '7', term: 2, index: 12, values: [['k0000004', '55']] },
  )
  t.same(
    { ...state.redis, values: [...state.redis!.values] },
    {
      isPrimary: true,
      offset: 400,
      fullSyncs: 2,
      values: [
        ['k0000000', '111'],
        ['k0000001', '222'],
      ],
    },
  )
  t.match(state, { ended: 1, resets: 3, acknowledged: [] })
  const silent = parseState('@status\n\n@redis\n@values\n@range\n\n@ended\n@tcp\n')
  t.match(silent, { etcd: null, redis: null, ended: 0, resets: 0 })
  const replica = parseState(
    '@redis\nrole:slave\r\nmaster_link_status:down\r\nslave_read_repl_offset:90\r\nslave_repl_offset:88\r\nmaster_repl_offset:88\r\n@tcp\n',
  )
  t.match(replica.redis, { isPrimary: false, offset: 88, fullSyncs: 0 })
  const client = parseState('@acknowledged\ne 3 1234 2\nr 5 77 1\nr 6 7\n@ended\n')
  t.same(client.acknowledged, [
    { store: 'etcd', key: 'k0000003', value: '1234', more: 2 },
    { store: 'redis', key: 'k0000005', value: '77', more: 1 },
  ])
})

t.test('a state is found in what a terminal says', async (t) => {
  const packed = gzipSync(member0).toString('base64').replace(/.{76}/g, '$&\n')
  const said = `\n/ # examine\necho end-$((40+2))\nbegin-2\n${packed}\nclose-2\n/ # echo end-$((40+2))\nend-42`
  t.equal(stateIn(said)?.ended, 1)
  t.equal(stateIn('/ # examine\nnot found\n'), undefined)
})

t.test('options', async (t) => {
  t.same(
    readOptions([]).chosen.map(({ id }) => id),
    ['snapswitch', 'vnsnap', 'unacloud', 'uncoordinated', 'at-once'],
  )
  t.same(
    readOptions(['--only', 'unacloud']).chosen.map(({ id }) => id),
    ['unacloud'],
  )
  t.throws(() => readOptions(['--only', 'snapswitch-drop']), /no system/)
})
