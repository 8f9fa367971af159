// Names of machines that are found: fit, unique, and the same again.

import t from 'tap'
import { isName } from '../../src/api/names.js'
import { asName, type Claim, Names } from '../../switch/discovery/names.js'

const claim = (incarnation: string, title: string | null, tap = `tap${incarnation}`): Claim => ({
  incarnation,
  key: `${title ?? ''}@${tap}`,
  title,
  tap,
})
const none = new Set<string>()
const given = (names: ReadonlyMap<string, string>) => Object.fromEntries(names)

t.test('titles become names', async (t) => {
  t.equal(asName('web'), 'web')
  t.equal(asName('My Web, 2 (test)'), 'My-Web-2-test')
  t.equal(asName('Ünïcode/../etc'), 'U-ni-code-..-etc')
  t.equal(asName('.hidden'), 'hidden')
  t.equal(asName('日本'), null)
  t.equal(asName(''), null)
  t.equal(asName('constructor'), null, 'no name that every object has')
  for (const title of ['x'.repeat(200), `${'x'.repeat(62)} y`, '--a--']) t.ok(isName(asName(title)), title)
})

t.test('no two alike, whoever comes first keeps the name', async (t) => {
  const names = new Names()
  t.same(given(names.assign([claim('1', 'vm1'), claim('2', 'vm1')], none)), { 1: 'vm1', 2: 'vm1-tap2' })
  t.same(given(names.assign([claim('1', 'vm1'), claim('2', 'vm1')], none)), { 1: 'vm1', 2: 'vm1-tap2' }, 'again')
  t.same(given(names.assign([claim('2', 'vm1')], none)), { 2: 'vm1-tap2' }, 'the first ends: nobody is renamed')
  const back = [claim('2', 'vm1'), claim('3', 'vm1', 'tap1')]
  t.same(given(names.assign(back, none)), { 2: 'vm1-tap2', 3: 'vm1' }, 'and is itself when it comes back')
  const after = new Names(names.contested)
  const younger = [claim('2', 'vm1'), claim('4', 'vm1', 'tap1')]
  t.same(given(after.assign(younger, none)), { 2: 'vm1-tap2', 4: 'vm1' }, 'also for a daemon that is started again')
  const alone = new Names(names.contested)
  t.same(
    given(alone.assign([claim('5', 'vm1', 'tap9')], none)),
    { 5: 'vm1-tap9' },
    'a name that is another’s is not had',
  )
})

t.test('names that others have are kept clear of', async (t) => {
  const reserved = new Set(['vm1', 'vm1-tap1'])
  t.same(given(new Names().assign([claim('1', 'vm1')], reserved)), { 1: 'vm1-2' })
  t.same(given(new Names().assign([claim('1', null), claim('2', '日本')], none)), { 1: 'vm-tap1', 2: 'vm-tap2' })
  const long = 'x'.repeat(63)
  const two = new Names().assign([claim('1', long), claim('2', long)], none)
  t.equal(two.size, 2)
  t.equal(new Set(two.values()).size, 2)
  for (const name of two.values()) t.ok(isName(name), name)
})

t.test('two runs of one key', async (t) => {
  const twins = [claim('1', 'vm1', 'tap1'), { ...claim('2', 'vm1', 'tap1'), tap: 'tap2' }]
  t.same(given(new Names().assign(twins, none)), { 1: 'vm1', 2: 'vm1-tap2' })
})

t.test('what is remembered is bounded', async (t) => {
  const names = new Names()
  for (let nth = 0; nth < 700; nth++)
    names.assign([claim(`${nth}a`, 'vm', `a${nth}`), claim(`${nth}b`, 'vm', `b${nth}`)], none)
  t.ok(names.contested.size <= 1024, `${names.contested.size}`)
})
