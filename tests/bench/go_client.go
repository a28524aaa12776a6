// go_client URL COUNT CONCURRENCY body|json
// Prints how many body bytes came, or the sum of the decoded ids.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

func fetch(client *http.Client, url string, decode bool) int64 {
	response, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		log.Fatal(response.Status)
	}
	if !decode {
		return int64(len(body))
	}
	var user map[string]interface{}
	if err := json.Unmarshal(body, &user); err != nil {
		log.Fatal(err)
	}
	return int64(user["id"].(float64))
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: go_client URL COUNT CONCURRENCY body|json")
	}
	count, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	concurrency, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns = concurrency
	transport.MaxIdleConnsPerHost = concurrency
	client := &http.Client{Transport: transport}

	var started, total int64
	var workers sync.WaitGroup
	for i := 0; i < concurrency; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for atomic.AddInt64(&started, 1) <= count {
				atomic.AddInt64(&total, fetch(client, os.Args[1], os.Args[4] == "json"))
			}
		}()
	}
	workers.Wait()
	fmt.Println(total)
}
