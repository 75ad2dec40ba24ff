package merge
import ("testing";"math/rand/v2";"github.com/intermezzofs/intermezzo/pkg/kml")
func TestZZ(t *testing.T){
 ops:=map[kml.Op]int{}; freeOps:=map[kml.Op]int{}; shared:=0; free:=0; lens:=map[int]int{}
 for seed:=range 20000 {
  base,a,b:=twoHosts(rand.New(rand.NewPCG(9,uint64(seed))).IntN); _=base
  lens[len(a.log)*10+len(b.log)]++
  fr:=!touchesOf(a.log,nil).meets(touchesOf(b.log,nil))
  for _,l:=range [][]kml.Record{a.log,b.log}{ for _,r:=range l { ops[r.Op]++; if fr {freeOps[r.Op]++} } }
  if fr { free++
   ids:=map[kml.ObjectID]bool{}
   Touches2(a.log,func(k Key){ if k.ID!=kml.RootID&&!k.ID.IsZero(){ids[k.ID]=true}})
   s:=false
   Touches2(b.log,func(k Key){ if ids[k.ID] {s=true}})
   if s {shared++}
  }
 }
 t.Log(ops,freeOps,free,shared,lens)
}
func Touches2(l []kml.Record,f func(Key)){ for i:=range l { Touches(&l[i],func(k Key,_ Mode){f(k)})}}
func TestZZLong(t *testing.T){
 bad:=0
 for seed:=range 1500000 {
  base,a,b:=twoHosts(rand.New(rand.NewPCG(77,uint64(seed))).IntN)
  if touchesOf(a.log,nil).meets(touchesOf(b.log,nil)) {continue}
  if err:=checkPair(base,a.log,b.log); err!=nil { t.Errorf("%d %v\n%s",seed,err,describe(base,a.log,b.log)); bad++; if bad>2 {return} }
 }
}
