// The usual way to start a switch loads nothing of the other commands; every other way means what it always has.

import t from 'tap'
import { switchAsked } from '../../src/cli/entry.js'
import { attempt } from '../lab/command.js'
import { program } from '../lab/daemon.js'

t.test('which words are the usual way', async (t) => {
  for (const flag of ['-c', '--config']) t.equal(switchAsked(['switch', flag, '/etc/x.yaml']), '/etc/x.yaml')
  for (const words of [
    [],
    ['switch'],
    ['switch', '--config'],
    ['switch', '--config', ''],
    ['switch', '--config', '--help'],
    ['switch', '--config=/x'],
    ['switch', '-c', '/x', 'more'],
    ['switch', '--help'],
    ['coordinator', '--config', '/x'],
    ['status', '-c', '/x'],
  ])
    t.equal(switchAsked(words), null, words.join(' '))
})

t.test('either way says the same of a configuration that is not there', async (t) => {
  const usual = await attempt(program(), ['switch', '--config', '/nowhere/x.yaml'])
  const other = await attempt(program(), ['switch', '--config=/nowhere/x.yaml'])
  t.same([usual.code, usual.stdout], [1, ''])
  t.match(usual.stderr, /error CONFIG_UNREADABLE: .*\/nowhere\/x\.yaml/)
  t.same(usual, other)
})
