// The figures of `scripts/bench stores`: their names and tables.

import type { Bench } from '../run/report.js'
import { figure, type Table } from '../run/rows.js'

const count = (name: string, text: string) => figure(name, text, '', 'less', 1, 0)
const seconds = (name: string, text: string) => figure(name, text, 's', 'less', 1, 1)

const tables: readonly Table[] = [
  {
    title: 'How many went wrong',
    figures: [
      figure('attempts', 'snapshots, each restored', '', 'more', 1, 0),
      count('wrong', 'snapshots that went wrong: one of the two below, or both'),
      count('wrongCuts', 'images of no one moment'),
      count('wrongEnds', 'restored networks that lost, contradicted themselves, or did not serve'),
      count('still', 'a service that did not serve within 80 s (160 on a busy machine)'),
    ],
  },
  {
    title: 'The images, each machine loaded alone; sums over all snapshots',
    figures: [
      count('cut.missing', 'acknowledged writes that a server which acknowledged them has not'),
      count('cut.ahead', 'replicas ahead of their primary, followers ahead of their leader'),
      count('cut.unbegun', 'stored writes that the client has not begun yet'),
    ],
  },
  {
    title: 'The restored networks, once the client has stopped and 20 s have passed; sums over all snapshots',
    figures: [
      count('end.missing', 'acknowledged writes missing, or with another value'),
      count('end.disagree', 'keys on which members disagree'),
      count('end.silent', 'servers that do not answer'),
      count('end.ended', 'servers that ended, and were started again'),
    ],
  },
  {
    title: 'Seconds from the command to restore, and what else it cost the services; medians over all snapshots',
    figures: [
      seconds('etcd.first', 'until etcd acknowledges a write'),
      seconds('etcd.all', 'until each member of etcd does'),
      seconds('redis.first', 'until redis acknowledges a write'),
      seconds('redis.copied', 'until both replicas have a write'),
      count('end.resets', 'connections that a reset ended'),
      count('end.reconnects', 'connections that the client lost or gave up'),
      count('end.fullSyncs', 'replicas that had to be sent everything'),
    ],
  },
]

export const storesBench: Bench = {
  kind: 'stores',
  title: 'Replicated stores, saved and restored',
  tables,
  ratios: {
    storesWrong: { of: 'snapswitch', figure: 'wrong', peers: [], better: 'less', reach: { most: 0 } },
  },
  plots: ['wrongCuts', 'wrongEnds', 'cut.missing', 'end.missing', 'end.disagree', 'etcd.all', 'redis.copied'],
  note: 'What is counted, and how: [bench](../README.md#scriptsbench-stores).',
}
